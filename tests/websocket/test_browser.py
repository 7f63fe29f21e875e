"""A page in a real browser as a client."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, Page
from derpwire import Client
from serving import Recorded, Server
from webclient import MOST_SENT, WebClient, packet_of, relay_both_ways

from derper.protocol.frames import MAX_PACKET, FrameType, SendPacket
from derper.protocol.reader import frame_bytes

pytest_plugins = ["hall"]

CLEANLY = {"code": 1000, "reason": "", "wasClean": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(params=[False, True], ids=["ws", "wss"])
def server(request: pytest.FixtureRequest, recorded: Recorded) -> Server:
    return recorded("websocket", tls=request.param)


@pytest.fixture
def page(browser: Browser, server: Server) -> Page:
    return Page(browser, server.door)


@pytest.fixture
def tcp(server: Server) -> Iterator[Client]:
    with Client.join(server.door) as client:
        yield client


def test_a_browser_relays_packets_of_every_size_to_and_from_a_client_on_tcp(page: Page, tcp: Client) -> None:
    assert page.protocol == "derp"
    assert page.extensions == ""
    with WebClient.over(page) as web:
        relay_both_ways(web, tcp)
        web.ping()
    assert page.longest == MOST_SENT
    assert page.ended() == CLEANLY


def test_browsers_relay_to_each_other(browser: Browser, server: Server) -> None:
    with WebClient.over(Page(browser, server.door)) as one, WebClient.over(Page(browser, server.door)) as other:
        relay_both_ways(one, other)


def test_a_browser_sends_many_frames_in_one_message_and_one_frame_in_many(page: Page, tcp: Client) -> None:
    with WebClient.over(page):
        packets = [packet_of(MAX_PACKET, seed) for seed in range(15)]
        together = b"".join(SendPacket(tcp.key, packet).encode() for packet in packets)
        page.send(together)
        assert [tcp.packet().packet for _ in packets] == packets
        for at in range(0, len(together), 50_000):
            page.send(together[at : at + 50_000])
        assert [tcp.packet().packet for _ in packets] == packets


def test_a_close_frame_of_the_browser_is_answered_with_its_status_and_reason(page: Page, server: Server) -> None:
    since = server.mark()
    web = WebClient.over(page)
    page.close_with(4321, "done for today")
    assert page.ended() == {"code": 4321, "reason": "done for today", "wasClean": True}
    server.logged(rf'event="client gone" .*key={web.key} .*reason=eof', since)


def test_a_close_frame_is_answered_cleanly_while_packets_arrive(page: Page, tcp: Client) -> None:
    web = WebClient.over(page)
    packet = packet_of(MAX_PACKET)
    for _ in range(32):
        tcp.send(web.key, packet)
    web.packet()
    page.close_with()
    assert page.ended() == CLEANLY


def test_a_browser_that_sends_an_invalid_derp_frame_gets_a_close_frame(page: Page) -> None:
    WebClient.over(page)
    page.send(frame_bytes(FrameType.NOTE_PREFERRED, b"no"))
    assert page.ended() == CLEANLY


def test_a_browser_that_sends_text_gets_a_close_frame_with_the_reason(page: Page) -> None:
    WebClient.over(page)
    page.send_text("hello")
    assert page.ended() == {"code": 1003, "reason": "", "wasClean": True}


def test_a_server_that_stops_sends_close_frames_to_browsers(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        page = Page(browser, server.door)
        WebClient.over(page)
        assert server.stop() == 0
        assert page.ended() == CLEANLY
