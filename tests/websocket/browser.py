"""A real browser: headless Chromium with a page of ours, controlled with the DevTools protocol.

`Browser` starts it and calls the page's functions; `Page` is a WebSocket of the page, as a wire for a `WebClient`.
"""

import base64
import json
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

from derpwire import HOST, SECONDS, RelayAddress, Wire
from webclient import url_of
from websockets.sync.client import ClientConnection, connect

HERE: Final = Path(__file__).resolve().parent
START_SECONDS: Final = 30.0
_COMMAND: Final = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-proxy-server", "--ignore-certificate-errors", "--remote-debugging-port=0",
)  # fmt: skip


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Browser:
    """A Chromium that shows the page. It is not thread-safe."""

    def __enter__(self) -> Self:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._files = ThreadingHTTPServer((HOST, 0), partial(_Files, directory=str(HERE)))
        threading.Thread(target=self._files.serve_forever, daemon=True).start()
        self._process = subprocess.Popen(
            [*_COMMAND, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            self._tools = self._find_tools()
            self._asked = 0
            self._session: str | None = None
            self.show(f"http://{HOST}:{self._files.server_port}/page.html")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._drain.join()
        self._files.shutdown()
        self._files.server_close()
        self._profile.cleanup()

    def call(self, function: str, *arguments: object) -> Any:  # noqa: ANN401  whatever JSON says
        """Call a function of the page, and await its promise."""
        return self.evaluate(f"{function}({', '.join(json.dumps(argument) for argument in arguments)})")

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401  whatever JSON says
        """Return the value of an expression in the page; a promise is awaited."""
        answer = self._ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_until(self, condition: str) -> None:
        """Wait until an expression in the page is true; the page itself polls it."""
        look = f"const look = () => ({condition}) ? done(true) : setTimeout(look, 50)"
        patience = SECONDS * 500  # in ms; less than the timeout of an answer
        found = self.evaluate(f"new Promise(done => {{ {look}; look(); setTimeout(done, {patience}); }})")
        assert found, f"not so in time: {condition}"

    @contextmanager
    def as_phone(self) -> Iterator[None]:
        """Show pages on a small screen."""
        self._ask("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=3, mobile=True)
        yield
        self._ask("Emulation.clearDeviceMetricsOverride")

    def _find_tools(self) -> ClientConnection:
        """Read the address of DevTools from standard error; discard the rest."""
        stream = self._process.stderr
        assert stream is not None
        found: list[str] = []
        there = threading.Event()

        def read() -> None:
            said = []
            with stream:
                for line in stream:
                    said.append(line)
                    if listening := re.search(r"DevTools listening on (ws://\S+)", line):
                        found.append(listening[1])
                        there.set()
            if not found:
                found.append("".join(said))
                there.set()

        self._drain = threading.Thread(target=read)
        self._drain.start()
        assert there.wait(START_SECONDS), "Chromium does not start"
        assert found[0].startswith("ws://"), f"Chromium ended: {found[0]}"
        tools = connect(
            found[0], max_size=None, open_timeout=START_SECONDS, ping_interval=None, proxy=None, legacy=True
        )
        assert isinstance(tools, ClientConnection)
        return tools

    def show(self, address: str) -> None:
        """Go to a page, and wait until it has loaded."""
        if self._session is None:
            target = self._ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._ask("Page.enable")
        self._ask("Page.navigate", url=address)
        while self._hear().get("method") != "Page.loadEventFired":
            pass

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        self._asked += 1
        session = {} if self._session is None else {"sessionId": self._session}
        self._tools.send(json.dumps({"id": self._asked, "method": method, "params": parameters} | session))
        while (answer := self._hear()).get("id") != self._asked:
            pass
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(self._tools.recv(SECONDS))
        return heard


class Page(Wire):
    """One WebSocket of the page. It has no socket, so a wire's methods for sockets do not work."""

    def __init__(self, browser: Browser, door: RelayAddress) -> None:
        self._browser = browser
        opened = browser.call("open", url_of(door))
        self._number: int = opened["number"]
        self.protocol: str = opened["protocol"]
        self.extensions: str = opened["extensions"]

    def send(self, data: bytes) -> None:
        self._browser.call("send", self._number, base64.b64encode(data).decode())

    def send_text(self, text: str) -> None:
        self._browser.call("sendText", self._number, text)

    def some(self) -> bytes:
        came = self._browser.call("take", self._number)
        return b"" if came is None else base64.b64decode(came)

    @property
    def longest(self) -> int:
        """The length in bytes of the longest received message."""
        length: int = self._browser.call("longest", self._number)
        return length

    def close_with(self, code: int = 1000, reason: str = "") -> None:
        self._browser.call("close", self._number, code, reason)

    def ended(self) -> dict[str, Any]:
        """Wait for the end; return the close event's `code`, `reason` and `wasClean`."""
        how: dict[str, Any] = self._browser.call("closed", self._number)
        return how

    def close(self) -> None:
        self.close_with()
