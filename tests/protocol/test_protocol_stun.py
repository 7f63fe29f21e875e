from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import pytest
from golden import Case, by_name, load
from hypothesis import given
from hypothesis import strategies as st

from derper.errors import ProtocolError
from derper.protocol import stun
from derper.protocol.frames import Endpoint

STUN = load("stun")


@pytest.mark.parametrize("case", STUN["requests"], ids=lambda case: case["tx_id"])
def test_a_request_equals_the_reference_clients(case: Case) -> None:
    assert stun.request(bytes.fromhex(case["tx_id"])).hex() == case["request"]


@pytest.mark.parametrize("length", [0, 11, 13])
def test_a_transaction_id_of_another_length_is_an_error_of_the_caller(length: int) -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        stun.request(bytes(length))


@pytest.mark.parametrize("case", by_name(STUN["responses"]))
def test_an_answer_is_read_as_by_the_reference_client(case: Case) -> None:
    seen = Endpoint(ip_address(case["client_reads_ip"]), case["client_reads_port"])
    assert stun.Response.parse(bytes.fromhex(case["response"])) == stun.Response(bytes.fromhex(case["tx_id"]), seen)


@pytest.mark.parametrize("case", by_name(STUN["client"]))
def test_unusual_answers_are_accepted_and_rejected_as_by_the_reference_client(case: Case) -> None:
    datagram = bytes.fromhex(case["response"])
    if case["ok"]:
        seen = Endpoint(ip_address(case["ip"]), case["port"])
        assert stun.Response.parse(datagram) == stun.Response(bytes.fromhex(case["tx_id"]), seen)
    else:
        with pytest.raises(ProtocolError, match="STUN"):
            stun.Response.parse(datagram)


@pytest.mark.parametrize("case", STUN["live"], ids=lambda case: case["name"])
def test_recorded_answers_have_the_source_address_of_the_request(case: Case) -> None:
    seen = stun.Response.parse(bytes.fromhex(case["response"])).seen
    assert seen.ip == ip_address(case["source_ip"])
    assert seen.port == case["source_port"]


@given(st.binary(max_size=80), st.booleans())
def test_other_bytes_raise_only_a_protocol_error(data: bytes, has_header: bool) -> None:  # noqa: FBT001  hypothesis hands it in
    header = bytes.fromhex("0101") + len(data).to_bytes(2, "big") + bytes.fromhex("2112a442") + bytes(12)
    with suppress(ProtocolError):
        stun.Response.parse(header + data if has_header else data)
