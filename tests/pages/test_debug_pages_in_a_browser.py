"""The pages in a browser: no violation of their content security policy, updated figures, growing charts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from derpwire import Client
from serving import Server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), tls=True) as server:
        yield server


def address(server: Server, path: str) -> str:
    return f"https://127.0.0.1:{server.port}{path}"


def text(browser: Browser, selector: str) -> str:
    found: str = browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")
    return found


def test_figures_and_charts_update_by_themselves(browser: Browser, server: Server) -> None:
    with Client.join(server.door) as sender, Client.join(server.door) as receiver:
        browser.show(address(server, "/debug/"))
        browser.wait_until('document.body.dataset.state === "live"')
        assert text(browser, '[data-value="connections"]') == "2"
        browser.wait_until("document.querySelector('[data-rate=\"packets_in\"] path.line').getAttribute('d')")
        for _ in range(50):
            sender.send(receiver.key, bytes(1000))
            receiver.packet()
        browser.wait_until("!document.querySelector('[data-rate=\"bytes_out\"] .figure').textContent.startsWith('0')")
        assert text(browser, '[data-rate="bytes_out"] .figure').endswith("B/s")
    browser.wait_until("document.querySelector('[data-value=\"connections\"]').textContent === '0'")


@pytest.mark.parametrize("path", ["/", "/debug/", "/debug/clients/", "/debug/clients/?all=1"])
def test_nothing_on_a_page_is_blocked_by_its_policy(browser: Browser, server: Server, path: str) -> None:
    browser.show(address(server, path))
    loaded = browser.evaluate("performance.getEntriesByType('resource').map(entry => entry.responseStatus)")
    assert loaded, "a stylesheet at least"
    assert set(loaded) == {200}
    # An unstyled page has the browser's own margin.
    assert browser.evaluate("getComputedStyle(document.body).maxWidth") == "1216px"


@pytest.mark.parametrize("path", ["/", "/debug/", "/debug/clients/?all=1"])
def test_a_phone_shows_a_page_without_scrolling_sideways(browser: Browser, server: Server, path: str) -> None:
    with Client.join(server.door), browser.as_phone():
        browser.show(address(server, path))
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_client_with_the_debug_key_gets_all_resources_of_the_page(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("let&me in")
    words = ("env", f"TS_DEBUG_KEY_PATH={tmp_path}/key")
    with Server(tmp_path, before=words) as server:
        page = f"http://127.0.0.1:{server.port}/debug/?debugkey=let%26me%20in"
        browser.show(page)
        browser.wait_until('document.body.dataset.state === "live"')
        links = browser.evaluate("[...document.querySelectorAll('a')].map(link => link.href)")
        assert all(link.endswith("?debugkey=let%26me+in") for link in links if "/debug/" in link)
