"""Requests to a secrets server, and their retries (docs/protocol/cli.md, setec); the real one: `tests/interop`."""

import asyncio
import base64
import json
from itertools import pairwise
from pathlib import Path

import pytest
from verifier import Question, always, at_a_url, http

from derper.config import SecretsServer
from derper.credentials import secrets
from derper.errors import ConfigError
from derper.host.trusted import TrustedRoots

NAME = "prod/derp/meshkey"
SECRET = http(json.dumps({"Value": base64.b64encode(b"the key").decode(), "Version": 3}).encode())
REFUSALS = [
    http(b"not found\n", "404 Not Found"), http(b"no\n", "403 Forbidden"), http(b"", "500 Internal Server Error"),
    http(b"[]"), http(b"{"), http(b'{"Value": "***"}'), http(b'{"Value": 5}'), b"", b"HTTP/1.1 what?\r\n\r\n",
]  # fmt: skip


async def test_any_failure_is_retried_after_one_millisecond_doubling_until_there_is_a_secret(
    tmp_path: Path,
) -> None:
    loop = asyncio.get_running_loop()
    answers, times = [*REFUSALS, SECRET], []

    async def answer(_question: Question) -> bytes:
        times.append(loop.time())
        return answers.pop(0)

    async with at_a_url(answer) as server:
        url = server.url.removesuffix("/verify?a=b")
        source = SecretsServer(f"{url}/", NAME, tmp_path / "cache")
        assert await asyncio.to_thread(secrets.load, source, TrustedRoots(None, ())) == b"the key"
        for question in server.asked:
            assert question.line == "POST /api/get HTTP/1.1"
            assert question.headers["sec-x-tailscale-no-browsers"] == "setec"
            assert question.headers["content-type"] == "application/json"
            assert json.loads(question.body) == {"Name": NAME, "Version": 0, "UpdateIfChanged": False}
    waits = [after - before for before, after in pairwise(times)]
    assert all(wait >= 0.001 * 2**number for number, wait in enumerate(waits))
    assert sum(waits) < 2 * 0.001 * 2 ** len(waits) + 2  # plus two seconds for a busy machine
    assert secrets.LONGEST_WAIT == 4.0


async def test_a_timeout_reports_that_there_is_no_secret(tmp_path: Path) -> None:
    source = SecretsServer("http://127.0.0.1:1", NAME, tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"gave no prod/derp/meshkey in 0 s"):
        await asyncio.to_thread(secrets.load, source, TrustedRoots(None, ()), 0.2)
    assert not (tmp_path / "cache").exists()


async def test_a_secret_in_an_answer_with_a_long_head_is_read(tmp_path: Path) -> None:
    head, _, body = SECRET.partition(b"\r\n\r\n")
    answer = head + b"\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n" + body
    async with at_a_url(always(answer)) as server:
        source = SecretsServer(server.url.removesuffix("/verify?a=b"), NAME, tmp_path / "cache")
        assert await asyncio.to_thread(secrets.load, source, TrustedRoots(None, ()), 10) == b"the key"
