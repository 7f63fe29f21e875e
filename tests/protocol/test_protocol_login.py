from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from golden import Case, app_names, by_name, feedings, load, node, one_frame
from hypothesis import example, given
from hypothesis import strategies as st

from derper.errors import ProtocolError
from derper.protocol import gojson
from derper.protocol.frames import FrameType
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic, admits_to_mesh
from derper.protocol.login import (
    LOGIN_LIMITS,
    MAGIC,
    MAX_CLIENT_INFO,
    ClientInfo,
    ClientLogin,
    LoginBox,
    ServerInfo,
    ServerKey,
    client_info_frame,
    open_server_info,
    server_info_frame,
)
from derper.protocol.reader import HEADER_LEN, FrameReader, RawFrame

LOGIN = load("login")
CLIENT_INFO = LOGIN["client_info"]
SERVER_INFO = LOGIN["server_info"]
NONCE = bytes(24)


def private(digits: str) -> NodePrivate:
    return NodePrivate(bytes.fromhex(digits))


SERVER = private(CLIENT_INFO["server_private"])
CLIENT = private(CLIENT_INFO["client_private"])
BOX = LoginBox(CLIENT, SERVER.public())


def sealed(plain: bytes) -> RawFrame:
    return RawFrame(FrameType.CLIENT_INFO, CLIENT.public().raw + BOX.seal(plain, NONCE))


def is_of_low_order(case: Case) -> bool:
    """Return whether this is the one case that only the reference accepts."""
    return "low order" in case["name"]


@feedings
@pytest.mark.parametrize("case", by_name(CLIENT_INFO["cases"], without=is_of_low_order))
def test_a_server_accepts_and_rejects_the_same_logins_as_the_reference(case: Case, how: str) -> None:
    mesh_key = MeshKey.from_text(CLIENT_INFO["server_mesh_key"]) if case.get("server_has_mesh_key", True) else None
    if case["outcome"] == "close":
        with pytest.raises(ProtocolError):
            ClientLogin.open(one_frame(FrameReader(LOGIN_LIMITS), bytes.fromhex(case["send"]), how), SERVER)
        return
    login = ClientLogin.open(one_frame(FrameReader(LOGIN_LIMITS), bytes.fromhex(case["send"]), how), SERVER)
    assert login.key.hex() == CLIENT_INFO["client_public"]
    assert admits_to_mesh(mesh_key, login.info.mesh_key) is case["is_mesh_peer"]
    if "present_flags" in case:
        assert login.info.is_prober is bool(case["present_flags"] & 4)


@pytest.mark.parametrize("case", by_name(CLIENT_INFO["cases"], without=lambda c: not is_of_low_order(c)))
def test_a_client_key_of_low_order_is_rejected_although_the_reference_accepts_it(case: Case) -> None:
    with pytest.raises(ProtocolError, match="low order"):
        ClientLogin.open(one_frame(FrameReader(LOGIN_LIMITS), bytes.fromhex(case["send"])), SERVER)


@pytest.mark.parametrize(
    "case", by_name(CLIENT_INFO["cases"], without=lambda c: is_of_low_order(c) or not {"json", "json_hex"} & set(c))
)
def test_only_the_content_of_the_box_decides(case: Case) -> None:
    plain = bytes.fromhex(case["json_hex"]) if "json_hex" in case else case["json"].encode()
    if case["outcome"] == "close":
        with pytest.raises(ProtocolError):
            ClientInfo.from_json(plain)
    else:
        ClientInfo.from_json(plain)
    frame = HEADER_LEN + 32
    box = LoginBox(SERVER, CLIENT.public())
    assert box.open(bytes.fromhex(case["send"])[frame:]) == plain


@pytest.mark.parametrize("case", by_name(CLIENT_INFO["sizes"]))
def test_client_info_may_be_262144_bytes_and_no_byte_more(case: Case) -> None:
    plain = case["json_start"].encode().ljust(case["json_padded_with_spaces_to"])
    payload = CLIENT.public().raw + BOX.seal(plain, bytes.fromhex(case["nonce"]))
    frame = RawFrame(FrameType.CLIENT_INFO, payload)
    assert len(frame.encode()) == case["frame_bytes"]
    assert hashlib.sha256(frame.encode()).hexdigest() == case["frame_sha256"]
    if case["outcome"] == "accept":
        assert ClientLogin.open(one_frame(FrameReader(LOGIN_LIMITS), frame.encode(), "bytes"), SERVER).info.version == 2
        return
    reader = FrameReader(LOGIN_LIMITS)
    reader.feed(frame.encode()[:HEADER_LEN])
    with pytest.raises(ProtocolError, match=r"262,145 bytes, wanted at most 262,144"):
        reader.next_frame()
    with pytest.raises(ProtocolError, match=r"262,145"):
        ClientLogin.open(frame, SERVER)


def info_of(fields: dict[str, Any]) -> ClientInfo:
    mesh_key = MeshKey.from_text(fields["meshKey"]) if fields["meshKey"] else None
    return ClientInfo(mesh_key, fields["version"], fields["CanAckPings"], fields["IsProber"], fields["AppName"])


@feedings
@pytest.mark.parametrize("session", by_name(LOGIN["sessions"]))
def test_a_whole_login_is_the_reference_s_byte_for_byte(session: Case, how: str) -> None:
    server, client = private(session["server_private"]), private(session["client_private"])
    info = info_of(session["client_info_fields"])

    hello = ServerKey(server.public()).encode()
    assert hello.hex() == session["server_key_frame"]
    server_key = ServerKey.decode(one_frame(FrameReader(LOGIN_LIMITS), hello, how)).key
    assert server_key == node(session["server_public"])

    box = LoginBox(client, server_key)
    sent = client_info_frame(client.public(), info, box, bytes.fromhex(session["client_info_nonce"]))
    assert info.to_json().decode() == session["client_info_json"]
    assert sent.hex() == session["client_info_frame"]
    login = ClientLogin.open(one_frame(FrameReader(LOGIN_LIMITS), sent, how), server)
    assert (login.key, login.info) == (client.public(), info)
    mesh_key = MeshKey.from_text(session["server_mesh_key"])
    assert admits_to_mesh(mesh_key, login.info.mesh_key) is session["is_mesh_peer"]

    answer = server_info_frame(ServerInfo(), login.box, bytes.fromhex(session["server_info_nonce"]))
    assert answer.hex() == session["server_info_frame"]
    assert open_server_info(one_frame(FrameReader(LOGIN_LIMITS), answer, how), box) == ServerInfo(version=2)


def test_the_shared_key_is_the_precomputed_one_of_nacl_from_either_side() -> None:
    for session in LOGIN["sessions"]:
        plain = session["client_info_json"].encode()
        ends = [
            LoginBox(private(session["server_private"]), node(session["client_public"])),
            LoginBox(private(session["client_private"]), node(session["server_public"])),
        ]
        for end in ends:
            assert end.open(bytes.fromhex(session["client_info_sealed"])) == plain
            assert end.seal(plain, bytes.fromhex(session["client_info_nonce"])).hex() == session["client_info_sealed"]


@feedings
@pytest.mark.parametrize("case", by_name(LOGIN["server_key"]["cases"]))
def test_a_client_accepts_and_rejects_the_same_server_keys_as_the_reference(case: Case, how: str) -> None:
    data = bytes.fromhex(case["frame"]) + bytes(case.get("frame_then_zero_bytes", 0))
    if case["outcome"] == "accept":
        greeting = ServerKey.decode(one_frame(FrameReader(LOGIN_LIMITS), data, how))
        assert greeting.key.hex() == LOGIN["server_key"]["server_public"]
    else:
        with pytest.raises(ProtocolError):
            ServerKey.decode(one_frame(FrameReader(LOGIN_LIMITS), data, how))


def test_the_magic_is_derp_and_a_key() -> None:
    assert MAGIC.hex() == LOGIN["magic"]
    assert MAGIC.decode() == "DERP🔑"


@feedings
@pytest.mark.parametrize("case", by_name(SERVER_INFO["cases"]))
def test_a_client_accepts_and_rejects_the_same_server_infos_as_the_reference(case: Case, how: str) -> None:
    box = LoginBox(private(SERVER_INFO["client_private"]), node(SERVER_INFO["server_public"]))
    frame = one_frame(FrameReader(LOGIN_LIMITS), bytes.fromhex(case["frame"]), how)
    if case["outcome"] == "close":
        with pytest.raises(ProtocolError):
            open_server_info(frame, box)
        return
    info = open_server_info(frame, box)
    assert info.token_bucket_bytes_per_second == case["decoded"]["TokenBucketBytesPerSecond"]
    assert info.token_bucket_bytes_burst == case["decoded"]["TokenBucketBytesBurst"]
    if info.version == 2:
        assert info.to_json().decode() == case["json"]


@pytest.mark.parametrize("theirs", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, 2**255])
def test_no_box_is_made_with_a_key_of_low_order(theirs: int) -> None:
    with pytest.raises(ProtocolError, match="low order"):
        LoginBox(SERVER, NodePublic(theirs.to_bytes(32, "little")))


@pytest.mark.parametrize(
    ("plain", "info"),
    [
        pytest.param('{"version":1,"version":null}', ClientInfo(version=1), id="null keeps an earlier value"),
        pytest.param('{"CanAckPings":true,"canackpings":false}', ClientInfo(version=0), id="last of two spellings"),
        pytest.param(
            '{"AppName":"é","AppName":"ok"}', ClientInfo(version=0, app_name="ok"), id="last name is validated"
        ),
        pytest.param('{"ver\u017fion":3}', ClientInfo(version=3), id="a long s folds to s"),
        pytest.param('{"version":-0}', ClientInfo(version=0), id="minus zero is an integer"),
        pytest.param('{"x":1e999,"y":-0.5E-3}', ClientInfo(version=0), id="unused numbers"),
        pytest.param('{"x":' + "9" * 5_000 + "}", ClientInfo(version=0), id="a number of 5,000 digits"),
        pytest.param('{"version":9223372036854775807}', ClientInfo(version=2**63 - 1), id="biggest version"),
        pytest.param('{"x":"\\ud800"}', ClientInfo(version=0), id="an unused half of a surrogate pair"),
        pytest.param('{"":1,"x":{"version":"y"}}', ClientInfo(version=0), id="members of members do not count"),
    ],
)
def test_json_is_read_as_by_go(plain: str, info: ClientInfo) -> None:
    assert ClientInfo.from_json(plain.encode()) == info


@pytest.mark.parametrize(
    "plain",
    [
        '{"version":"x","version":2}',
        '{"version":9223372036854775808}',
        '{"version":2e0}',
        '{"version":' + "1" * 5_000 + "}",
        '{"version":true}',
        '{"version":{}}',
        '{"CanAckPings":"yes"}',
        '{"AppName":["x"]}',
        '{"meshKey":' + "1" * 64 + "}",
        '{"x":NaN}',
        '{"x":-Infinity}',
        "NaN",
        "true",
        "{'x':1}",
        '{"x":01}',
        '{"x":1,}',
        '{"x":"\\x"}',
        "\u00a0{}",
        "{}\0",
        "",
    ],
)
def test_json_that_go_rejects_is_rejected(plain: str) -> None:
    with pytest.raises(ProtocolError):
        ClientInfo.from_json(plain.encode())


@pytest.mark.parametrize("bomb", ["[", '{"x":', "[{", '{"x":[', '{"":{"":'])
@pytest.mark.parametrize("closed", [False, True])
def test_a_nesting_bomb_is_a_protocol_error(bomb: str, *, closed: bool) -> None:
    depth = MAX_CLIENT_INFO // 4 // len(bomb)
    closing = "".join({"[": "]", "{": "}"}.get(character, "") for character in bomb)[::-1]
    data = bomb * depth + "1" + closing * (depth if closed else 0)
    with pytest.raises(ProtocolError):
        ClientInfo.from_json(data.encode())
    with pytest.raises(ProtocolError):
        ClientLogin.open(sealed(data.encode()[: MAX_CLIENT_INFO // 2]), SERVER)


def test_an_error_contains_neither_the_box_nor_the_json() -> None:
    private_words = "5ec2e7"
    for plain in (
        f"{private_words}",
        f'{{"meshKey":"{private_words}"}}',
        f'{{"AppName":"é{private_words}"}}',
        f'{{"version":"{private_words}"}}',
    ):
        with pytest.raises(ProtocolError) as caught:
            ClientLogin.open(sealed(plain.encode()), SERVER)
        assert private_words not in str(caught.value)


def test_the_text_of_a_client_info_has_no_mesh_key() -> None:
    assert CLIENT_INFO["server_mesh_key"] not in repr(ClientInfo(MeshKey.from_text(CLIENT_INFO["server_mesh_key"])))


mesh_keys = st.binary(min_size=32, max_size=32).map(MeshKey)
int64 = st.integers(-(2**63), 2**63 - 1)
client_infos = st.builds(ClientInfo, st.none() | mesh_keys, int64, st.booleans(), st.booleans(), app_names)


@given(client_infos)
def test_client_info_survives_its_json(info: ClientInfo) -> None:
    assert ClientInfo.from_json(info.to_json()) == info
    assert json.loads(info.to_json()).get("AppName", "") == info.app_name


@given(st.builds(ServerInfo, int64, int64, int64))
def test_server_info_survives_its_json(info: ServerInfo) -> None:
    assert ServerInfo.from_json(info.to_json()) == info


@given(client_infos, st.binary(min_size=24, max_size=24), st.binary(min_size=32, max_size=32))
def test_any_client_logs_in_to_its_server_and_to_no_other(info: ClientInfo, nonce: bytes, entropy: bytes) -> None:
    client = NodePrivate.from_entropy(entropy)
    frame = client_info_frame(client.public(), info, LoginBox(client, SERVER.public()), nonce)
    raw = one_frame(FrameReader(LOGIN_LIMITS), frame)
    login = ClientLogin.open(raw, SERVER)
    assert (login.key, login.info) == (client.public(), info)
    with pytest.raises(ProtocolError):
        ClientLogin.open(raw, CLIENT)


names = st.sampled_from(
    ["version", "meshKey", "CanAckPings", "IsProber", "AppName", "VERSION", "TokenBucketBytesBurst"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_an_info_or_a_protocol_error(value: object) -> None:
    plain = json.dumps(value).encode()
    for kind in (ClientInfo, ServerInfo):
        try:
            kind.from_json(plain)
        except ProtocolError:
            continue
        assert value is None or isinstance(value, dict)


@given(st.binary(max_size=60))
@example(b"\xff\xfe{\0}\0")
@example(b'{"x":"\xff"}')
def test_any_bytes_are_members_or_a_protocol_error(plain: bytes) -> None:
    try:
        members = list(gojson.members(plain))
    except ProtocolError:
        return
    assert all(name == name.casefold() for name, _ in members)


@given(st.integers(0, 5), st.binary(max_size=200))
def test_any_frame_during_login_is_rejected_with_a_protocol_error(kind: int, payload: bytes) -> None:
    frame = RawFrame(kind, payload)
    with pytest.raises(ProtocolError):
        ClientLogin.open(frame, SERVER)
    with pytest.raises(ProtocolError):
        open_server_info(frame, BOX)
    if not payload.startswith(MAGIC):
        with pytest.raises(ProtocolError):
            ServerKey.decode(frame)
