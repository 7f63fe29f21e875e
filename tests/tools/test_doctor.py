"""`derper doctor` with our server and the reference's: green without faults, and red at a fault."""

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from relays import HOST, GoDerper, OurDerper, Relay, free_port
from running import inline, json_of, tool

from derper.protocol.derpmap import DerpMap, Node, Region


@dataclass(frozen=True)
class Full:
    """A relay with all services: TLS, STUN and plain HTTP."""

    relay: Relay
    stun_port: int
    http_port: int

    def doctor(self, *words: str, pin: str | None = None) -> dict[str, Any]:
        """Return the findings by check."""
        ports = ("--stun-port", str(self.stun_port), "--http-port", str(self.http_port))
        trusted = ("--pin", self.relay.pin if pin is None else pin)
        return findings(tool("doctor", f"{HOST}:{self.relay.port}", *ports, *trusted, "--json", *words))


@pytest.fixture(scope="module", params=[OurDerper, GoDerper], ids=lambda kind: kind.name)
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    stun_port, http_port = free_port(), free_port()
    flags = ("-stun=true", "-stun-port", str(stun_port), "-http-port", str(http_port))
    with request.param(tmp_path_factory.mktemp("doctor"), tls=True, flags=flags) as relay:
        yield Full(relay, stun_port, http_port)


def findings(done: Any) -> dict[str, Any]:  # noqa: ANN401  a finished process
    assert done.returncode in (0, 1), done.stderr
    report = json_of(done)
    (one,) = report["relays"]
    checks = {check["check"]: check for check in one["checks"]}
    is_red = any(check["state"] == "red" for check in checks.values())
    assert (done.returncode, report["good"]) == (int(is_red), not is_red)
    assert all(check["advice"] for check in checks.values() if check["state"] == "red")
    return checks


def states(checks: dict[str, Any]) -> dict[str, str]:
    return {name: check["state"] for name, check in checks.items()}


def test_a_relay_with_all_services_is_green(full: Full) -> None:
    checks = full.doctor()
    assert states(checks) == {
        "DNS IPv4": "good",
        "TCP IPv4": "good",
        "certificate": "good",
        "clock": "good",
        "upgrade": "good",
        "login": "good",
        "packet": "good",
        "WebSocket": "note",  # it works, but browsers do not support pins
        "STUN IPv4": "good",
        f"port {full.http_port}": "good",
    }
    assert "TLSv1.3" in checks["certificate"]["says"]
    assert "days left" in checks["certificate"]["says"]
    assert "fast start" in checks["login"]["says"]
    assert f"sees us at {HOST} port " in checks["STUN IPv4"]["says"]


def test_an_untrusted_certificate_is_red_and_its_pin_is_shown(full: Full) -> None:
    checks = full.doctor(pin="")
    assert checks["certificate"]["state"] == "red"
    assert full.relay.pin in checks["certificate"]["advice"]
    assert "login" not in checks
    wrong = full.doctor(pin="sha256-raw:" + "0" * 64)
    assert f"is {full.relay.pin}, wanted sha256-raw:000" in wrong["certificate"]["says"]
    assert full.relay.pin in wrong["certificate"]["advice"]


def test_the_text_output_has_a_line_for_each_check_and_remedies(full: Full) -> None:
    where = f"{HOST}:{full.relay.port}"
    done = tool("doctor", where, "--stun-port", "-1", "--pin", "sha256-raw:" + "0" * 64)
    assert done.returncode == 1
    assert f"{where}\n" in done.stdout
    assert "  ok   TCP IPv4" in done.stdout
    assert "  RED  certificate" in done.stdout
    assert "→" in done.stdout
    assert "\x1b" not in done.stdout  # no colours without a terminal


def test_silent_stun_is_red(full: Full) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        port = silent.getsockname()[1]
        checks = full.doctor("--stun-port", str(port))
    assert states(checks)["STUN IPv4"] == "red"
    assert f"let UDP {port} in" in checks["STUN IPv4"]["advice"]
    assert states(checks)["packet"] == "good"


def test_a_map_is_checked_node_by_node(full: Full, tmp_path: Path) -> None:
    good = Node("900a", 900, HOST, cert_name=full.relay.pin, derp_port=full.relay.port, stun_port=-1)
    down = Node("901a", 901, HOST, derp_port=free_port(), stun_port=-1)
    written = DerpMap({900: Region(900, "up", nodes=(good,)), 901: Region(901, "down", nodes=(down,))}).to_json()
    derp_map = tmp_path / "map.json"
    derp_map.write_text(json.dumps(written))
    done = tool("doctor", str(derp_map), "--json")
    assert done.returncode == 1
    red = {
        one["name"]: [check["check"] for check in one["checks"] if check["state"] == "red"]
        for one in json_of(done)["relays"]
    }
    assert red == {"up/900a": [], "down/901a": ["TCP IPv4"]}
    for region in ("up", "900"):
        assert inline("doctor", str(derp_map), "--region", region).returncode == 0
    lost = inline("doctor", str(derp_map), "--region", "nowhere")
    assert lost.returncode == 1
    assert "its regions are: 900 (up), 901 (down)" in lost.stderr


def test_a_node_that_answers_stun_only_is_good_with_nothing_on_tcp(full: Full, tmp_path: Path) -> None:
    node = Node("900a", 900, HOST, ipv6="none", derp_port=free_port(), stun_port=full.stun_port, stun_only=True)
    checks = findings(tool("doctor", str(map_of(tmp_path, node)), "--json"))
    assert states(checks) == {"DNS IPv4": "good", "TCP": "note", "STUN IPv4": "good"}


def test_a_node_that_answers_stun_only_is_red_if_its_stun_is_silent_or_off(tmp_path: Path) -> None:
    silent = Node("900a", 900, HOST, ipv6="none", stun_port=free_port(), stun_only=True)
    assert states(findings(tool("doctor", str(map_of(tmp_path, silent)), "--json")))["STUN IPv4"] == "red"
    off = replace(silent, stun_port=-1)
    assert states(findings(tool("doctor", str(map_of(tmp_path, off)), "--json")))["STUN"] == "red"


def map_of(folder: Path, node: Node) -> Path:
    """Write a DERP map with one node; return its path."""
    written = folder / "map.json"
    written.write_text(json.dumps(DerpMap({900: Region(900, "test", nodes=(node,))}).to_json()))
    return written


def test_plain_http_is_checked_by_its_url(tmp_path: Path) -> None:
    with OurDerper(tmp_path) as plain:
        checks = findings(tool("doctor", plain.url, "--stun-port", "-1", "--json"))
    assert set(states(checks).values()) == {"good", "note"}
    assert "certificate" not in checks
    assert states(checks)["WebSocket"] == "good"


@pytest.mark.parametrize(
    ("life", "state", "says"),
    [
        (timedelta(days=30), "note", "29 days left"),
        (timedelta(days=5), "red", "4 days left"),
        (timedelta(hours=-1), "red", "certificate has expired: it was valid until 20"),
    ],
)
async def test_a_certificate_near_or_past_its_end_is_red(
    tmp_path: Path, life: timedelta, state: str, says: str
) -> None:
    authority = Authority(tmp_path)
    authority.issue(tmp_path, "derp.example.test", life)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "derp.example.test.crt", tmp_path / "derp.example.test.key")

    def hang_up(_stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        out.close()

    written = tmp_path / "map.json"
    async with await asyncio.start_server(hang_up, HOST, 0, ssl=serving) as server:
        port = server.sockets[0].getsockname()[1]
        node = Node("900a", 900, "derp.example.test", ipv4=HOST, ipv6="none", derp_port=port, stun_port=-1)
        written.write_text(json.dumps(DerpMap({900: Region(900, "test", nodes=(node,))}).to_json()))
        done = await asyncio.to_thread(tool, "doctor", str(written), "--json", SSL_CERT_FILE=str(authority.file))
    certificate = findings(done)["certificate"]
    assert says in certificate["says"]
    assert certificate["state"] == state


@pytest.mark.parametrize(
    ("begins", "life", "says", "advice"),
    [
        (timedelta(days=-1), timedelta(hours=-1), "certificate has expired", "renew it"),
        (timedelta(days=1), timedelta(days=30), "certificate is not yet valid", "clock"),
    ],
)
def test_a_certificate_outside_its_validity_is_red_even_if_the_map_ignores_it(
    tmp_path: Path, begins: timedelta, life: timedelta, says: str, advice: str
) -> None:
    name, authority = "derp.example.test", Authority(tmp_path)
    authority.issue(tmp_path / "certs", name, life, begins=begins)
    admin = f"unix:{tmp_path}/admin.sock"
    with OurDerper(tmp_path, tls=True, flags=("-hostname", name, "-admin", admin)) as relay:
        written = tmp_path / "map.json"
        for insecure in (False, True):
            node = Node(
                "900a", 900, name, ipv4=HOST, ipv6="none", derp_port=relay.port, stun_port=-1,
                insecure_for_tests=insecure,
            )  # fmt: skip
            written.write_text(json.dumps(DerpMap({900: Region(900, "test", nodes=(node,))}).to_json()))
            done = tool("doctor", str(written), "--json", SSL_CERT_FILE=str(authority.file))
            certificate = findings(done)["certificate"]
            assert certificate["state"] == "red"
            assert says in certificate["says"]
            assert advice in certificate["advice"]
        top = tool("top", "--admin", admin, "--once", "--interval", "0.1")
        assert (top.returncode, f"{name}: {says}" in top.stdout) == (0, True), top
        in_json = tool("top", "--admin", admin, "--json", "--interval", "0.1")
        assert (json_of(in_json), f"{name}: {says}" in in_json.stderr) == ([], True)


def test_a_relay_that_rejects_its_clients_is_red_only_at_the_login(tmp_path: Path) -> None:
    with OurDerper(tmp_path, flags=("-verify-clients", "-socket", str(tmp_path / "nobody"))) as closed:
        checks = findings(tool("doctor", closed.url, "--stun-port", "-1", "--json"))
    assert states(checks) == {
        "DNS IPv4": "good", "TCP IPv4": "good", "clock": "good", "upgrade": "good", "login": "red",
        "STUN": "note",
    }  # fmt: skip
    assert "--key" in checks["login"]["advice"]
    assert "rejected this client: " in checks["login"]["says"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "usage: derper doctor"),
        (("a", "b"), 2, "unrecognized arguments: b"),
        (("ftp://x",), 1, "is not a relay's URL"),
        (("x.invalid:1", "--region", "1"), 1, "x.invalid:1 is a host"),
        ((f"http://{HOST}:1/map.json",), 1, "cannot be fetched"),
        ((f"{HOST}", "--key", "/nowhere"), 1, "the key file /nowhere cannot be read"),
        ((__file__,), 1, "is not a DERP map (JSON"),
    ],
)
def test_invalid_arguments_are_errors_of_one_sentence(words: tuple[str, ...], code: int, says: str) -> None:
    done = inline("doctor", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_name_is_red_with_a_remedy() -> None:
    checks = findings(inline("doctor", "derp.invalid", "--stun-port", "-1", "--json"))
    assert states(checks)["DNS"] == "red"
    assert "A or AAAA" in checks["DNS"]["advice"]
