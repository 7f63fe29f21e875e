"""The address of a client that connects through an HTTP proxy; other clients cannot forge it."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from derpwire import HOST, Client
from httpwire import read_answer, request
from serving import Server

from derper.dataplane import Remote
from derper.protocol.upgrade import RequestHead, upgrade_request
from derper.server.http.forwarded import Forwarding

TRUSTED = Forwarding([ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")])
PROXY = Remote("127.0.0.1", 4711)


def head(*said: str) -> RequestHead:
    return RequestHead("GET", "/", "1.1", (("host", "a"), *(("x-forwarded-for", value) for value in said)))


@pytest.mark.parametrize(
    ("said", "client"),
    [
        (["192.0.2.9"], "192.0.2.9"),
        (["6.6.6.6, 192.0.2.9"], "192.0.2.9"),
        (["192.0.2.9, 10.1.2.3"], "192.0.2.9"),
        (["192.0.2.9", "10.1.2.3", "10.3.2.1"], "192.0.2.9"),
        ([" 2001:db8::9 "], "2001:db8::9"),
        (["[2001:db8::9]:443"], "2001:db8::9"),
        (["192.0.2.9:4711"], "192.0.2.9"),
        (["::ffff:192.0.2.9"], "192.0.2.9"),
        (["192.0.2.9, 2001:db8:1::5"], "192.0.2.9"),
    ],
)
def test_the_last_address_that_is_no_trusted_proxy_is_the_client(said: list[str], client: str) -> None:
    assert TRUSTED.client(PROXY, head(*said)) == (Remote(client, 0), head())


@pytest.mark.parametrize("said", [[], [""], ["unknown"], ["192.0.2.9, _hidden"], ["10.0.0.1"], ["1.2.3"], [","]])
def test_a_request_of_a_trusted_proxy_without_a_client_is_anonymous(said: list[str]) -> None:
    remote, rest = TRUSTED.client(PROXY, head(*said))
    assert remote == Remote("127.0.0.1", 4711, is_anonymous=True)
    assert rest == head()


def test_forwarded_addresses_of_other_hosts_are_ignored() -> None:
    stranger = Remote("192.0.2.66", 1)
    assert TRUSTED.client(stranger, head("127.0.0.1")) == (stranger, head("127.0.0.1"))
    assert Forwarding(()).client(PROXY, head("192.0.2.9")) == (PROXY, head("192.0.2.9"))


def test_logins_and_pages_use_the_address_from_the_proxy(tmp_path: Path) -> None:
    with Server(tmp_path, "-trusted-proxies", HOST) as server:
        with server.door.connect() as wire:
            # One connection of the proxy carries requests of several clients.
            for named, status in (("192.0.2.9", 403), ("100.64.0.9", 200), ("192.0.2.9", 403)):
                wire.send(request("GET", "/debug/check", f"X-Forwarded-For: {named}"))
                assert read_answer(wire).status == status
            wire.send(request("GET", "/debug/check"))
            assert read_answer(wire).status == 403
        client = Client(server.door.connect())
        client.wire.send(upgrade_request(HOST).removesuffix(b"\r\n") + b"X-Forwarded-For: 192.0.2.9\r\n\r\n")
        client.wire.head()
        client.greeted()
        client.log_in()
        client.wire.close()
        server.logged(f'event="client gone" key={client.key} .*remote=192.0.2.9')
