from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from golden import Case, by_name, load, node_keys
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult

from derper.errors import ProtocolError
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic, admits_to_mesh

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = load("keys")
PARSERS: dict[str, Callable[[str], NodePublic | NodePrivate | MeshKey]] = {
    "node_public_text": NodePublic.from_text,
    "node_public_untyped": NodePublic.from_hex,
    "node_private_text": NodePrivate.from_text,
    "mesh_text": MeshKey.from_text,
    "mesh_json": lambda text: MeshKey.from_json(json.loads(text)),
}
LOW_ORDER = [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18] + [
    int.from_bytes(bytes.fromhex(point), "little")
    for point in (
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    )
]
SECRET = bytes.fromhex("99d33123bb50e4f52a9eeace228d56bdfbd09aebfc68088becdef2be1dcbdd4f")


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c['kind']}: {c['name']}") for c in KEYS["parse"]])
def test_key_text_is_read_as_by_the_reference(case: Case) -> None:
    parse = PARSERS[case["kind"]]
    if case["ok"]:
        assert parse(case["text"]).raw.hex() == case["raw"]
    else:
        with pytest.raises(ProtocolError):
            parse(case["text"])


@pytest.mark.parametrize("case", by_name(KEYS["node_public"]))
def test_a_public_key_has_three_text_forms(case: Case) -> None:
    key = NodePublic(bytes.fromhex(case["raw"]))
    assert (str(key), key.hex(), key.short()) == (case["text"], case["untyped_hex"], case["short"])
    assert NodePublic.from_text(case["text"]) == NodePublic.from_hex(case["untyped_hex"]) == key


@pytest.mark.parametrize("case", by_name(KEYS["node_private"]))
def test_a_private_key_keeps_its_text(case: Case) -> None:
    key = NodePrivate.from_text(case["text"])
    assert (key.raw.hex(), key.to_text()) == (case["raw"], case["text"])
    if "public" in case:
        assert key.public().hex() == case["public"]


def test_the_zero_private_key_has_no_public_key() -> None:
    zero = NodePrivate(bytes(32))
    assert zero.is_zero
    with pytest.raises(ValueError, match="no public key"):
        zero.public()


@pytest.mark.parametrize("case", [pytest.param(c, id=c["random"][:8]) for c in KEYS["clamp"]])
def test_a_created_private_key_is_clamped(case: Case) -> None:
    key = NodePrivate.from_entropy(bytes.fromhex(case["random"]))
    assert (key.raw.hex(), key.public().hex()) == (case["private"], case["public"])


@pytest.mark.parametrize("case", KEYS["mesh"])
def test_a_mesh_key_is_the_same_in_a_file_and_in_json(case: Case) -> None:
    key = MeshKey.from_text(case["text"])
    assert key == MeshKey.from_json(json.loads(case["json"])) == MeshKey(bytes.fromhex(case["raw"]))
    assert key.to_text() == case["text"]


@pytest.mark.parametrize("value", [None, 12, True, ["00"], {"a": 1}])
def test_a_mesh_key_in_json_is_a_string(value: object) -> None:
    with pytest.raises(ProtocolError):
        MeshKey.from_json(value)


@pytest.mark.parametrize("secret", [NodePrivate(SECRET), MeshKey(SECRET)])
def test_texts_of_a_secret_do_not_contain_it(secret: NodePrivate | MeshKey) -> None:
    shown = f"{secret} {secret!r} {[secret]} {secret:}"
    assert SECRET.hex()[:8] not in shown
    assert repr(SECRET)[2:10] not in shown


def test_an_error_about_a_key_does_not_contain_it() -> None:
    with pytest.raises(ProtocolError) as caught:
        MeshKey.from_text(SECRET.hex()[:-1] + "x")
    assert SECRET.hex()[:8] not in str(caught.value)


def test_mesh_keys_are_equal_exactly_if_their_bytes_are() -> None:
    key, same, other = MeshKey(SECRET), MeshKey(bytes(bytearray(SECRET))), MeshKey(bytes(31) + b"\1")
    assert key == same
    assert len({key, same, other}) == 2
    assert key != other
    assert key != SECRET


@pytest.mark.parametrize(
    ("ours", "presented", "admitted"),
    [
        (MeshKey(SECRET), MeshKey(SECRET), True),
        (MeshKey(SECRET), MeshKey(SECRET[::-1]), False),
        (MeshKey(SECRET), None, False),
        (None, MeshKey(SECRET), False),
        (None, None, False),
        (MeshKey(bytes(32)), MeshKey(bytes(32)), False),
    ],
)
def test_only_the_same_mesh_key_makes_a_mesh_peer(
    ours: MeshKey | None, presented: MeshKey | None, *, admitted: bool
) -> None:
    assert admits_to_mesh(ours, presented) is admitted


def _makes_a_shared_secret(key: NodePublic) -> bool:
    try:
        crypto_scalarmult(NodePrivate.from_entropy(SECRET).raw, key.raw)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("top_bit", [0, 1 << 255])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_low_order_key_is_recognized(point: int, top_bit: int) -> None:
    key = NodePublic((point | top_bit).to_bytes(32, "little"))
    assert key.is_low_order
    assert not _makes_a_shared_secret(key)


@pytest.mark.parametrize("point", [2, 9, 2**255 - 21, 2**255 - 17, 2**254])
def test_keys_next_to_low_order_keys_are_valid(point: int) -> None:
    key = NodePublic(point.to_bytes(32, "little"))
    assert not key.is_low_order
    assert _makes_a_shared_secret(key)


@pytest.mark.parametrize("kind", [NodePublic, NodePrivate, MeshKey])
@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_cannot_exist(kind: type[NodePublic], length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        kind(bytes(length))


@given(node_keys)
def test_public_keys_survive_their_text(key: NodePublic) -> None:
    assert NodePublic.from_text(str(key)) == NodePublic.from_hex(key.hex().upper()) == key


@given(st.binary(min_size=32, max_size=32))
def test_secrets_survive_their_text(raw: bytes) -> None:
    assert NodePrivate.from_text(NodePrivate(raw).to_text()).raw == raw
    assert MeshKey.from_text(f" {MeshKey(raw).to_text()}\n").raw == raw


@given(st.sampled_from(sorted(set(PARSERS) - {"mesh_json"})), st.text(st.characters(categories=["L", "N", "Z", "P"])))
def test_any_text_is_a_key_or_a_protocol_error(kind: str, text: str) -> None:
    for candidate in (text, f"nodekey:{text}", f"privkey:{text[:64]}", (text * 65)[:64]):
        with suppress(ProtocolError):
            assert len(PARSERS[kind](candidate).raw) == 32


@pytest.mark.parametrize("kind", [NodePublic, NodePrivate, MeshKey])
def test_text_instead_of_bytes_is_a_type_error_that_names_both(kind: type[Any]) -> None:
    with pytest.raises(TypeError, match="want 32 bytes, got str; from_text parses a key's text form"):
        kind("a" * 32)
