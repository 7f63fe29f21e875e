"""All checks that an operator asked for, behind one question: may this client in?

The kinds of check are ANDed, the cheapest first; of one kind, one has to know the client. Whoever asks waits, nobody
else does, and at most so many wait at once: a verifier that is stuck costs memory that is bounded.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Self

from derper.config import Config
from derper.server import roots
from derper.server.admission.answers import KNOWN, Answer, Applicant, Check, any_of, unknown
from derper.server.admission.tailscaled import Tailscaled
from derper.server.admission.url import UrlCheck

MOST_WAITING: Final = 4_096


class Door:
    """Who may connect. `tailscaleds` are the daemons among the checks, which `/debug/check` proves."""

    def __init__(self, kinds: Sequence[Sequence[Check]], tailscaleds: Sequence[Tailscaled] = ()) -> None:
        self._kinds = [kind for kind in kinds if kind]
        self._tailscaleds = tailscaleds
        self._waiting = 0

    @classmethod
    def of(cls, config: Config) -> Self:
        """The door that a configuration describes.

        Raises:
            ConfigError: something that it names cannot be read.
        """
        admission = config.admission
        tailscaleds = [Tailscaled(socket) for socket in admission.tailscaled_sockets]
        tls = roots.context(config.roots) if any(url.startswith("https:") for url in admission.urls) else None
        urls = [UrlCheck(url, fails_open=admission.url_fail_open, tls=tls) for url in admission.urls]
        return cls([tailscaleds, urls], tailscaleds)

    @property
    def is_open(self) -> bool:
        """Whether nobody has to be asked."""
        return not self._kinds

    async def ask(self, applicant: Applicant) -> Answer:
        """Say whether a client may in."""
        if self._waiting >= MOST_WAITING:
            return unknown(f"{MOST_WAITING:,} other clients wait to be verified")
        self._waiting += 1
        try:
            for kind in self._kinds:
                answer = await _ask_kind(kind, applicant)
                if not answer.admits:
                    return answer
        finally:
            self._waiting -= 1
        return KNOWN

    async def faults(self) -> list[str]:
        """Say what keeps the daemons from being asked (docs/protocol/http.md, /debug/check)."""
        found = await asyncio.gather(*(daemon.prove() for daemon in self._tailscaleds))
        return [fault for fault in found if fault is not None]

    async def close(self) -> None:
        """Let go of what the checks hold."""
        for kind in self._kinds:
            for check in kind:
                await check.close()


async def _ask_kind(kind: Sequence[Check], applicant: Applicant) -> Answer:
    if len(kind) == 1:
        return await kind[0].ask(applicant)
    return any_of(await asyncio.gather(*(check.ask(applicant) for check in kind)))
