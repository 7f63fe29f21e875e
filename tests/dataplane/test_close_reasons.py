"""The reasons for which a connection ends are the same in Python and in Rust."""

from derper.dataplane import CloseReason
from derper.dataplane.extension import native


def test_python_and_rust_have_the_same_close_reasons() -> None:
    assert list(CloseReason) == native.CLOSE_REASONS


def test_close_reasons_are_in_the_order_of_their_codes() -> None:
    assert sorted(CloseReason) == list(CloseReason)
