"""The data plane computes the same shared keys for a login as NaCl's own library."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derper.dataplane import SharedKeyDeriver
from derper.protocol.keys import NodePrivate, NodePublic

KEYS = st.binary(min_size=32, max_size=32)


@given(KEYS.filter(any), KEYS)
def test_both_agree_on_the_same_key(private: bytes, public: bytes) -> None:
    ours, theirs = NodePrivate(private), NodePublic(public)
    if not theirs.is_low_order:
        assert SharedKeyDeriver(ours).shared_with(theirs) == ours.shared_with(theirs)


@given(KEYS.filter(any))
def test_a_key_of_low_order_is_rejected(private: bytes) -> None:
    with pytest.raises(ValueError, match="low order"):
        SharedKeyDeriver(NodePrivate(private)).shared_with(NodePublic(bytes(32)))
