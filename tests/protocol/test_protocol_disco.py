from __future__ import annotations

import pytest
from golden import Case, by_name, load
from hypothesis import given
from hypothesis import strategies as st

from derper.protocol.disco import DISCO_MAGIC, is_disco


@pytest.mark.parametrize("case", by_name(load("frames")["disco"]))
def test_disco_is_recognized_by_its_magic_and_length(case: Case) -> None:
    assert is_disco(bytes.fromhex(case["packet"])) is case["disco"]


@given(st.binary(max_size=100))
def test_a_packet_is_disco_exactly_if_it_has_the_magic_and_62_bytes(rest: bytes) -> None:
    assert is_disco(DISCO_MAGIC + rest) is (len(DISCO_MAGIC + rest) >= 62)
    assert is_disco(rest) is (rest[:6] == DISCO_MAGIC and len(rest) >= 62)
