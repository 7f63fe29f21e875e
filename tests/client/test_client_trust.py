"""Which relays the client trusts: rules of pins, names, roots, and the errors for a relay that is not trusted."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from authority import Authority
from fakerelay import raw_server
from relays import HOST, GoDerper, OurDerper, Relay
from serving import Server, vectors
from waysin import SECONDS

from derper.certname import pin_of
from derper.client import DerpClient, Node, Options
from derper.client.tls import check_pin
from derper.errors import NetworkError

NOW = datetime.now(UTC)


@pytest.mark.parametrize("case", vectors("prober_map")["pins"], ids=lambda case: case["name"])
def test_a_pin_is_checked_as_by_the_reference(case: dict[str, Any]) -> None:
    chain = tuple(bytes.fromhex(certificate) for certificate in case["chain"])
    if case["ok"]:
        check_pin(case["cert_name"], chain, case["host_name"], NOW)
    else:
        with pytest.raises(NetworkError):
            check_pin(case["cert_name"], chain, case["host_name"], NOW)


@pytest.fixture(scope="module", params=[OurDerper, GoDerper], ids=lambda kind: kind.name)
def relay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A relay with a self-signed certificate for its address."""
    with request.param(tmp_path_factory.mktemp("pinned"), tls=True) as relay:
        yield relay


def node_at(relay: Relay, **changes: Any) -> Node:  # noqa: ANN401  any field
    return replace(Node("900a", 900, HOST, cert_name=relay.pin, derp_port=relay.port), **changes)


async def refusal(where: str | Node, options: Options | None = None) -> str:
    async with asyncio.timeout(SECONDS):
        with pytest.raises(NetworkError) as caught:
            await DerpClient(where, None, options).connect()
    return str(caught.value)


@pytest.mark.parametrize("websocket", [False, True], ids=["tcp", "websocket"])
async def test_only_the_pinned_certificate_is_trusted(relay: Relay, websocket: bool) -> None:  # noqa: FBT001
    options = Options(websocket=websocket)
    async with asyncio.timeout(SECONDS), DerpClient(node_at(relay), None, options) as client:
        assert client.connected
        assert client.connected.tls
        assert pin_of(client.connected.tls.chain[0]) == relay.pin
        assert client.connected.tls.meta
        assert client.connected.tls.meta.server_key == client.connected.server_key
    wrong = relay.pin[:-1] + ("0" if relay.pin[-1] != "0" else "1")
    assert f"is {relay.pin}, wanted {wrong}" in await refusal(node_at(relay, cert_name=wrong), options)
    assert "wanted sha256-raw:" in await refusal(
        node_at(relay, cert_name=relay.pin[:11] + relay.pin[11:].upper()), options
    )


async def test_a_name_has_to_be_in_the_pinned_certificate_and_an_address_has_not(relay: Relay) -> None:
    named = node_at(relay, host_name="derp.example.test", ipv4=HOST, ipv6="none")
    assert "is not for derp.example.test" in await refusal(named)
    async with asyncio.timeout(SECONDS), DerpClient(node_at(relay, host_name="127.0.0.9", ipv4=HOST)) as client:
        await client.ping()


async def test_an_unknown_authoritys_certificate_is_trusted_only_in_tests(relay: Relay) -> None:
    assert "certificate is not trusted: self-signed certificate" in await refusal(node_at(relay, cert_name=""))
    assert "certificate is not trusted: self-signed certificate" in await refusal(relay.url, Options(websocket=True))
    insecure = node_at(relay, cert_name="sha256-raw:never looked at", insecure_for_tests=True)
    async with asyncio.timeout(SECONDS), DerpClient(insecure) as client:
        await client.ping()


async def test_the_environment_sets_the_systems_roots(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(relay.certificate))
    async with asyncio.timeout(SECONDS), DerpClient(relay.url) as client:
        await client.ping()


async def test_tls_to_a_plain_port_is_an_error_with_the_reason() -> None:
    async with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n", until=b"") as url:
        assert "no TLS with it" in await refusal(url.replace("http", "https"))
        assert "no WebSocket with" in await refusal(url.replace("http", "https"), Options(websocket=True))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def named(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A relay for a DNS name, with a chain of an authority's certificate and the authority's own."""
    folder = tmp_path_factory.mktemp("named")
    authority.issue(folder, "derp.example.test")
    with (folder / "derp.example.test.crt").open("ab") as chain:
        chain.write(authority.file.read_bytes())
    with Server(folder, tls=True, hostname="derp.example.test") as server:
        yield server


def named_node(server: Server, **changes: Any) -> Node:  # noqa: ANN401  any field
    return replace(Node("900a", 900, "derp.example.test", ipv4=HOST, ipv6="none", derp_port=server.port), **changes)


def trusting(authority: Authority) -> Options:
    return Options(tls=ssl.create_default_context(cafile=str(authority.file)))


@pytest.mark.parametrize("websocket", [False, True], ids=["tcp", "websocket"])
async def test_the_programs_own_roots_are_trusted_and_a_maps_address_replaces_dns(
    named: Server,
    authority: Authority,
    websocket: bool,  # noqa: FBT001
) -> None:
    options = replace(trusting(authority), websocket=websocket)
    async with asyncio.timeout(SECONDS), DerpClient(named_node(named), None, options) as client:
        await client.ping()
        assert client.connected
        assert client.connected.tls
        assert client.connected.tls.server_name == "derp.example.test"
    assert "not trusted" in await refusal(named_node(named), Options(websocket=websocket))


async def test_the_expected_name_may_differ_from_the_requested_one(named: Server, authority: Authority) -> None:
    options = trusting(authority)
    other = named_node(named, cert_name="other.example.test")
    assert "is not for other.example.test" in await refusal(other, options)
    same = named_node(named, cert_name="DERP.example.test.")
    async with asyncio.timeout(SECONDS), DerpClient(same, None, options) as client:
        await client.ping()
    assert "not trusted" in await refusal(same)  # a trusted authority, but another name


async def test_a_chain_does_not_work_with_a_pin(named: Server, authority: Authority) -> None:
    leaf = ssl.PEM_cert_to_DER_cert(
        named.certificate.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----\n"
    )
    pinned = named_node(named, cert_name=pin_of(leaf))
    assert "one certificate beside the meta certificate, 2 were presented" in await refusal(pinned, trusting(authority))
