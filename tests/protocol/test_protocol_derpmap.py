from __future__ import annotations

import json
import re
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import pytest
from golden import Case, by_name, load
from hypothesis import given
from hypothesis import strategies as st

from derper.errors import ProtocolError
from derper.protocol.derpmap import MAX_VALUES, DerpMap, Node, Region

if TYPE_CHECKING:
    from collections.abc import Callable

MAPS = load("prober_map")["maps"]

NODE: dict[str, Any] = {"Name": "900a", "RegionID": 900, "HostName": "derp1.example.test"}


def text_of(case: Case) -> bytes:
    written = case.get("map_text") or json.dumps(case["map"])
    return str(written).encode()


def is_refused(case: Case) -> bool:
    return any("decoding" in line for line in case["bad"])


def one_node(**members: object) -> Node:
    written = json.dumps({"Regions": {"900": {"RegionID": 900, "Nodes": [NODE | members]}}})
    (node,) = DerpMap.from_json(written.encode()).nodes
    return node


@pytest.mark.parametrize("case", by_name(MAPS))
def test_a_map_is_accepted_or_rejected_as_by_the_reference(case: Case) -> None:
    if is_refused(case):
        with pytest.raises(ProtocolError, match="JSON"):
            DerpMap.from_json(text_of(case))
        return
    read = DerpMap.from_json(text_of(case))
    probed = {node for line in case["good"] if (node := re.match(r"derp/\w+/(\w+)/tls", line))}
    assert {found[1] for found in probed} <= {node.name for node in read.nodes}


@pytest.mark.parametrize("case", by_name(MAPS, without=is_refused))
def test_a_parsed_map_survives_writing_and_parsing(case: Case) -> None:
    read = DerpMap.from_json(text_of(case))
    assert DerpMap.from_json(json.dumps(read.to_json()).encode()) == read


def test_members_are_read_in_any_case_of_their_names() -> None:
    node = {
        "Name": "900a", "RegionID": 900, "HostName": "derp.example.test", "CertName": "other.example.test",
        "IPv4": "192.0.2.1", "IPv6": "none", "STUNPort": -1, "STUNOnly": True, "DERPPort": 8443,
        "InsecureForTests": True, "STUNTestIP": "192.0.2.2", "CanPort80": True,
    }  # fmt: skip
    region = {
        "RegionID": 900, "RegionCode": "mine", "RegionName": "Mine", "Latitude": 51.5, "Longitude": -0.5,
        "Avoid": True, "NoMeasureNoHome": True, "Nodes": [node],
    }  # fmt: skip
    written = {
        "HomeParams": {"RegionScore": {"900": 0.5}}, "Regions": {"900": region}, "omitDefaultRegions": True,
    }  # fmt: skip
    read = DerpMap.from_json(json.dumps(written).encode())
    assert read.regions[900] == Region(
        900, "mine", "Mine", 51.5, -0.5, avoid=True, no_measure_no_home=True, nodes=read.nodes
    )
    assert read.nodes == (
        Node(
            "900a", 900, "derp.example.test", "other.example.test", "192.0.2.1", "none", -1, True, 8443, True,
            "192.0.2.2", True,
        ),
    )  # fmt: skip
    assert (read.region_scores, read.omit_default_regions) == ({900: 0.5}, True)
    assert read.to_json() == written
    for change in (str.lower, str.upper):
        assert DerpMap.from_json(json.dumps(with_names(change, written)).encode()) == read


def with_names(change: Callable[[str], str], value: object) -> object:
    if isinstance(value, dict):
        return {change(name): with_names(change, member) for name, member in value.items()}
    return [with_names(change, member) for member in value] if isinstance(value, list) else value


def test_absent_and_null_members_are_as_in_the_reference() -> None:
    for node in (one_node(), one_node(IPv4=None, STUNPort=None, DERPPort=0, CanPort80=None, Extra=[{}])):
        assert (node.port, node.stun, node.cert_name, node.can_port_80) == (443, 3478, "", False)
    assert DerpMap.from_json(b'{"Regions": {"1": null, "2": {"Nodes": [null]}}}').regions[2].nodes == ()
    assert one_node(STUNPort=3479).stun == 3479
    assert one_node(STUNPort=-1).stun is None


@pytest.mark.parametrize(
    ("members", "over_4", "over_6"),
    [
        ({}, "derp1.example.test", "derp1.example.test"),
        ({"IPv4": "192.0.2.1"}, "192.0.2.1", "derp1.example.test"),
        ({"IPv4": "none", "IPv6": "2001:db8::0:1"}, None, "2001:db8::1"),
        ({"IPv4": "2001:db8::1", "IPv6": "192.0.2.1"}, None, None),
        ({"IPv4": "derp2.example.test", "IPv6": "none"}, None, None),
    ],
)
def test_an_address_is_dialled_an_empty_one_uses_dns_and_any_other_value_disables_the_family(
    members: dict[str, str], over_4: str | None, over_6: str | None
) -> None:
    node = one_node(**members)
    assert (node.dial_host(4), node.dial_host(6)) == (over_4, over_6)


def test_only_valid_addresses_are_returned() -> None:
    node = one_node(IPv4="192.0.2.1", IPv6="none")
    assert (node.address(4), node.address(6)) == (IPv4Address("192.0.2.1"), None)
    assert one_node(IPv6="2001:db8::1").address(6) == IPv6Address("2001:db8::1")
    assert one_node().address(4) is None


def test_the_host_header_has_brackets_and_a_port_other_than_the_schemes_default() -> None:
    assert one_node(DERPPort=443).authority == "derp1.example.test"
    assert one_node(HostName="2001:db8::1", DERPPort=8443).authority == "[2001:db8::1]:8443"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"Regions": []}',
        b'{"Regions": {"": {}}}',
        b'{"Regions": {"9.0": {}}}',
        b'{"Regions": {"99999999999999999999": {}}}',
        '{"Regions": {"\u0663": {}}}'.encode(),
        b'{"Regions": {"1": {"Nodes": {}}}}',
        b'{"Regions": {"1": {"Nodes": [[]]}}}',
        b'{"Regions": {"1": {"Latitude": "x"}}}',
        b'{"Regions": {"1": {"Latitude": 1e999}}}',
        b'{"Regions": {"1": {"Nodes": [{"DERPPort": 65536}]}}}',
        b'{"HomeParams": {"RegionScore": {"1": "1"}}}',
        b'{"omitDefaultRegions": 1}',
        b"[" * 100_000,
        b'{"Regions": {' + b"," * (MAX_VALUES + 1),
    ],
)
def test_an_invalid_map_is_rejected(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="JSON"):
        DerpMap.from_json(text)


@given(st.binary(max_size=64) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_bytes_that_are_not_a_map_raise_only_a_protocol_error(data: bytes | str) -> None:
    with suppress(ProtocolError):
        DerpMap.from_json(data.encode() if isinstance(data, str) else data)
