"""A controller at a URL decides which clients may connect (docs/protocol/admission.md, 2)."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from authority import Authority
from live import Client, Server, config_of, serving
from structlog.testing import capture_logs
from structlog.typing import EventDict
from verifier import ALLOW, REFUSE, Question, Verifier, always, at_a_url, http, never, try_login

from derper.errors import ConfigError
from derper.protocol import NodePrivate
from derper.protocol.keys import MeshKey
from derper.server.admission import policy, turns, url

PRIVATE = NodePrivate(bytes([7] * 32))
MESH_KEY = MeshKey(bytes(range(32)))


@pytest.fixture(autouse=True)
def log() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


def line(log: list[EventDict], event: str) -> EventDict:
    return next(entry for entry in log if entry["event"] == event)


@asynccontextmanager
async def asking(folder: Path, *flags: str, **environ: str) -> AsyncIterator[Server]:
    (folder / "mesh.key").write_text(MESH_KEY.to_text())
    mesh = ("-mesh-psk-file", str(folder / "mesh.key"))
    async with serving(config_of(folder, *mesh, *flags, **environ), shards=1) as server:
        yield server


@asynccontextmanager
async def judged(folder: Path, answer: bytes, *flags: str) -> AsyncIterator[tuple[Server, Verifier]]:
    async with (
        at_a_url(always(answer)) as verifier,
        asking(folder, "-verify-client-url", verifier.url, *flags) as server,
    ):
        yield server, verifier


async def test_the_request_has_the_key_and_the_address_and_no_content_type(tmp_path: Path) -> None:
    async with judged(tmp_path, http(ALLOW)) as (server, verifier):
        assert await try_login(server, PRIVATE) is None
        (question,) = verifier.asked
        assert question.line == "POST /verify?a=b HTTP/1.1"
        assert question.body == b'{"NodePublic":"%s","Source":"127.0.0.1"}' % str(PRIVATE.public()).encode()
        assert "content-type" not in question.headers


async def test_a_rejected_client_gets_the_reason_and_the_log_has_its_key_address_and_the_reason(
    tmp_path: Path, log: list[EventDict]
) -> None:
    async with judged(tmp_path, http(REFUSE)) as (server, _):
        told = await try_login(server, PRIVATE)
        assert told == "this relay rejected this device: the relay's operator does not allow it"
        assert await server.sample('derper_logins_rejected{reason="controller"}') == 1
    said = line(log, "client rejected")
    assert (said["key"], said["remote"]) == (PRIVATE.public(), "127.0.0.1")
    assert said["reason"] == f"admission controller: {PRIVATE.public()}/127.0.0.1 not allowed"


PADDED = ALLOW[:1] + b" " * (4_096 - len(ALLOW)) + ALLOW[1:]
ANSWERS: list[tuple[str, bytes, bool]] = [
    ("names without case", http(b'{"aLLOW": true}'), True),
    ("the last of two counts", http(b'{"Allow":false,"Allow":true}'), True),
    ("what follows the object", http(ALLOW + b"}{ garbage"), True),
    ("a body that never ends", http(ALLOW, length=10_000), True),
    ("4 KiB", http(PADDED), True),
    ("more than 4 KiB", http(b" " + PADDED), False),
    ("an empty object", http(b"{}"), False),
    ("null", http(b"null"), False),
    ("Allow null", http(b'{"Allow":null}'), False),
    ("Allow as a string", http(b'{"Allow":"true"}'), False),
    ("Allow as a number", http(b'{"Allow":1}'), False),
    ("an array", http(b"[true]"), False),
    ("no JSON", http(b"yes"), False),
    ("nothing", http(), False),
    ("half an object", http(b'{"Allow":tr'), False),
    ("201", http(ALLOW, "201 Created"), False),
    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", False),
    ("302 to nowhere", http(ALLOW, "302 Found"), False),
    ("403", http(ALLOW, "403 Forbidden"), False),
    ("500", http(ALLOW, "500 Internal Server Error"), False),
]


LONG_HEADS = {
    "a long line": http(ALLOW, "200 OK", f"X-Long: {'a' * 900_000}"),
    "many lines": http(ALLOW, "200 OK", *(f"X-{number}: a" for number in range(500))),
    "a long reason": http(ALLOW, f"200 {'OK ' * 10_000}"),
}


@pytest.mark.parametrize("name", LONG_HEADS)
async def test_an_answer_with_a_long_head_is_read(tmp_path: Path, name: str) -> None:
    async with judged(tmp_path, LONG_HEADS[name], "-verify-client-url-fail-open=false") as (server, _):
        assert await try_login(server) is None


async def test_an_answer_whose_head_is_longer_than_1_mib_is_invalid(tmp_path: Path) -> None:
    answer = http(ALLOW, "200 OK", f"X-Long: {'a' * (2 << 20)}")
    async with judged(tmp_path, answer, "-verify-client-url-fail-open=false") as (server, _):
        assert await try_login(server) is not None


@pytest.mark.parametrize("is_open", [True, False], ids=["fail-open", "fail-closed"])
async def test_only_200_with_allow_true_admits(tmp_path: Path, is_open: bool) -> None:  # noqa: FBT001  a parameter
    """One server sends all answers: the client's key selects one."""
    keys = [NodePrivate.from_entropy(bytes([number] * 32)) for number in range(1, len(ANSWERS) + 1)]
    answers = {str(key.public()): answer for key, (_, answer, _) in zip(keys, ANSWERS, strict=True)}

    async def answer(question: Question) -> bytes:
        return answers[question.key]

    async with (
        at_a_url(answer) as verifier,
        asking(
            tmp_path, "-verify-client-url", verifier.url, f"-verify-client-url-fail-open={str(is_open).lower()}"
        ) as server,
    ):
        told = await asyncio.gather(*(try_login(server, key) for key in keys))
    wanted = {name: admitted for name, _, admitted in ANSWERS}
    assert {name: text is None for (name, _, _), text in zip(ANSWERS, told, strict=True)} == wanted


async def test_a_truncated_answer_rejects_even_if_an_unreachable_controller_would_admit(
    tmp_path: Path, log: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url, "SECONDS", 0.2)
    async with judged(tmp_path, http(ALLOW[:5], length=20)) as (server, _):
        assert await try_login(server) is not None
    assert "its answer broke off" in line(log, "client rejected")["reason"]


async def test_an_unreachable_controller_admits_with_a_log_line(tmp_path: Path, log: list[EventDict]) -> None:
    async with asking(tmp_path, "-verify-client-url", "http://127.0.0.1:1/verify") as server:
        assert await try_login(server, PRIVATE) is None
        assert await server.sample("derper_logins_unverified") == 1
    said = line(log, "admission controller unreachable; allowing client")
    assert (said["key"], said["url"]) == (PRIVATE.public(), "http://127.0.0.1:1/verify")


async def test_an_unreachable_controller_rejects_when_it_is_to_fail_closed(
    tmp_path: Path, log: list[EventDict]
) -> None:
    flags = ("-verify-client-url", "http://me:s3cret@127.0.0.1:1/verify?t=s3cret", "-verify-client-url-fail-open=false")
    async with asking(tmp_path, *flags) as server:
        told = await try_login(server, PRIVATE)
        assert told == "this relay rejected this device: it cannot be verified at the moment"
        assert await server.sample('derper_logins_rejected{reason="no_answer"}') == 1
    reason = line(log, "client rejected")["reason"]
    assert "admission controller unreachable: http://127.0.0.1:1/verify: " in reason
    assert "s3cret" not in reason


@pytest.mark.parametrize(("is_open", "admitted"), [("true", True), ("false", False)])
async def test_a_controller_that_is_too_slow_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open: str, admitted: bool  # noqa: FBT001  a parameter
) -> None:  # fmt: skip
    assert url.SECONDS == 5.0
    monkeypatch.setattr(url, "SECONDS", 0.2)
    async with (
        at_a_url(never()) as verifier,
        asking(tmp_path, "-verify-client-url", verifier.url, f"-verify-client-url-fail-open={is_open}") as server,
    ):
        assert (await try_login(server) is None) == admitted


async def test_a_mesh_peer_is_not_checked(tmp_path: Path) -> None:
    async with judged(tmp_path, http(REFUSE), "-disallow-app-names", "bad") as (server, verifier):
        assert await try_login(server, mesh_key=MESH_KEY, app_name="bad") is None
        assert verifier.asked == []


async def test_a_rejected_application_gets_the_reason_before_any_controller_is_asked(
    tmp_path: Path, log: list[EventDict]
) -> None:
    async with judged(tmp_path, http(ALLOW), "-disallow-app-names", "bad") as (server, verifier):
        told = await try_login(server, app_name="bad")
        assert told == "this relay rejected this device: the application 'bad' is not allowed here"
        assert await server.sample('derper_logins_rejected{reason="app_name"}') == 1
        assert verifier.asked == []
    assert line(log, "client rejected")["reason"] == "disallowed app name 'bad'"


async def test_other_clients_do_not_wait_for_a_slow_controller(tmp_path: Path) -> None:
    thinks_of = str(PRIVATE.public())
    thought = asyncio.Event()

    async def answer(question: Question) -> bytes:
        if question.key == thinks_of:
            await thought.wait()
        return http(ALLOW)

    async with at_a_url(answer) as verifier, asking(tmp_path, "-verify-client-url", verifier.url) as server:
        waiting = asyncio.create_task(try_login(server, PRIVATE))
        await verifier.came.wait()
        assert await try_login(server) is None
        assert not waiting.done()
        thought.set()
        assert await waiting is None


async def test_a_client_that_leaves_during_its_check_affects_no_other(tmp_path: Path) -> None:
    thought = asyncio.Event()

    async def answer(_question: Question) -> bytes:
        await thought.wait()
        return http(ALLOW)

    async with at_a_url(answer) as verifier, asking(tmp_path, "-verify-client-url", verifier.url) as server:
        guest = asyncio.create_task(try_login(server, PRIVATE))
        await verifier.came.wait()
        for out in server.connections:
            out.close()
        guest.cancel()
        thought.set()
        assert await try_login(server) is None
        await server.wait_for("derp_current_connections", 1)


async def test_clients_that_wait_for_a_stuck_controller_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[EventDict]
) -> None:
    monkeypatch.setattr(turns, "MOST_WAITING", 0)
    monkeypatch.setattr(url, "IN_FLIGHT", 1)
    async with at_a_url(never()) as verifier, asking(tmp_path, "-verify-client-url", verifier.url) as server:
        waiting = asyncio.create_task(try_login(server))
        await verifier.came.wait()
        assert await try_login(server, PRIVATE) is not None
        assert await server.sample('derper_logins_rejected{reason="not_asked"}') == 1
        reason = line(log, "client rejected")["reason"]
        assert reason == "too many logins at once: 0 other clients wait for a turn"
        waiting.cancel()


async def test_a_redirect_that_keeps_the_request_body_is_followed_with_it(tmp_path: Path) -> None:
    async def answer(question: Question) -> bytes:
        is_first = question.line.startswith("POST /verify")
        return http(b"", "307 Temporary Redirect", "Location: /new") if is_first else http(ALLOW)

    async with at_a_url(answer) as verifier, asking(tmp_path, "-verify-client-url", verifier.url) as server:
        assert await try_login(server) is None
        first, second = verifier.asked
        assert (second.line, second.body) == ("POST /new HTTP/1.1", first.body)


async def test_a_controller_is_given_up_after_ten_redirects(tmp_path: Path) -> None:
    answer = http(b"", "302 Found", "Location: /again")
    async with judged(tmp_path, answer, "-verify-client-url-fail-open=false") as (server, verifier):
        assert await try_login(server) is not None
        assert len(verifier.asked) == 10
        assert verifier.asked[1].line == "GET /again HTTP/1.1"


async def test_an_idle_connection_closed_by_the_controller_does_not_reject(tmp_path: Path) -> None:
    """The second request is sent on the first one's connection, which the controller then closes."""
    answers = [http(ALLOW), b"", http(ALLOW)]

    async def answer(_question: Question) -> bytes:
        return answers.pop(0)

    flags = ("-verify-client-url-fail-open=false",)
    async with at_a_url(answer) as verifier, asking(tmp_path, "-verify-client-url", verifier.url, *flags) as server:
        assert [await try_login(server), await try_login(server)] == [None, None]
        assert len(verifier.asked) == 3


async def test_one_of_several_controllers_has_to_allow(tmp_path: Path, log: list[EventDict]) -> None:
    allowed = str(PRIVATE.public())

    async def answer(question: Question) -> bytes:
        return http(ALLOW if question.key == allowed else REFUSE)

    async with at_a_url(answer) as one, at_a_url(always(http(REFUSE))) as other:
        flags = ("-verify-client-url", other.url, "-verify-client-url", one.url)
        async with asking(tmp_path, *flags) as server:
            assert await try_login(server, PRIVATE) is None
            assert await try_login(server) is not None
    assert re.search("not allowed$", line(log, "client rejected")["reason"])


async def test_a_controllers_certificate_has_to_chain_to_the_roots_in_the_environment(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue(tmp_path, "127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "127.0.0.1.crt", tmp_path / "127.0.0.1.key")
    async with at_a_url(always(http(ALLOW)), tls) as verifier:
        flags = ("-verify-client-url", verifier.url, "-verify-client-url-fail-open=false")
        async with asking(tmp_path, *flags, SSL_CERT_FILE=str(authority.file)) as server:
            assert await try_login(server) is None
        async with asking(tmp_path, *flags) as server:
            assert await try_login(server) is not None


@pytest.mark.parametrize("inside", ["AAAA", "A"], ids=["no certificate", "no base64"])
def test_unreadable_roots_are_a_start_up_error_that_names_their_file(tmp_path: Path, inside: str) -> None:
    file = tmp_path / "roots.pem"
    file.write_text(f"-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n")
    config = config_of(tmp_path, "-verify-client-url", "https://a.test/", SSL_CERT_FILE=str(file))
    with pytest.raises(ConfigError, match=f"a root certificate in {file} cannot be read"):
        policy.AdmissionPolicy(config)


async def test_packets_flow_once_a_client_is_admitted(tmp_path: Path) -> None:
    async with judged(tmp_path, http(ALLOW)) as (server, verifier):
        one = await Client.log_in(server)
        assert [json.loads(question.body)["NodePublic"] for question in verifier.asked] == [str(one.key)]
