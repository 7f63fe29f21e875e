"""All configured checks as one policy, which decides whether a client may log in.

The kinds of check are ANDed, cheapest first, or ORed with `-verify-any`. Of the checks of one kind, one has to know the
client. Only the login in question waits. Each check limits its waiting clients (`turns`), so a verifier that hangs
costs bounded memory.
"""

import asyncio
from collections.abc import Sequence

from derper.config import Config
from derper.host import roots
from derper.server.admission.allowlist import AllowList
from derper.server.admission.answers import KNOWN, Answer, Check, ClientIdentity, Decision, any_of
from derper.server.admission.cached import CachedCheck
from derper.server.admission.tailscaled import Tailscaled
from derper.server.admission.url import UrlCheck


class AdmissionPolicy:
    """The checks of the configuration."""

    def __init__(self, config: Config) -> None:
        """Create the checks; raises `ConfigError` if a file that they need cannot be read."""
        admission = config.admission
        self.allow_list = None if admission.allow_keys is None else AllowList(admission.allow_keys)
        self._tailscaleds = [Tailscaled(socket) for socket in admission.tailscaled_sockets]
        tls = roots.context(config.roots) if any(url.startswith("https:") for url in admission.urls) else None
        urls = [
            UrlCheck(url, fails_open=admission.url_fail_open, tls=tls, proxy=config.proxies.of(url))
            for url in admission.urls
        ]
        kinds: list[list[Check]] = [[self.allow_list] if self.allow_list else [], [*self._tailscaleds], [*urls]]
        if admission.cache:
            kinds[1:] = [[CachedCheck(check, admission.cache) for check in kind] for kind in kinds[1:]]
        self._kinds = [kind for kind in kinds if kind]
        self._any_kind = admission.any_kind

    @property
    def is_open(self) -> bool:
        """True if no check is configured."""
        return not self._kinds

    @property
    def asks_others(self) -> bool:
        """True if a check other than the list of keys is configured."""
        return len(self._kinds) > (self.allow_list is not None)

    async def ask(self, client: ClientIdentity) -> Answer:
        """Return whether a client may log in."""
        return await (self._ask_any(client) if self._any_kind else self._ask_all(client))

    async def review(self, client: ClientIdentity) -> Answer | None:
        """Return the reason why this connected client would be rejected now, or None.

        A client without an answer is not rejected.
        """
        if self._any_kind:
            answer = await self._ask_any(client)
            return answer if answer.decision is Decision.REFUSED else None
        for kind in self._kinds:
            answer = await _ask_kind(kind, client)
            if answer.decision is Decision.REFUSED:
                return answer
        return None

    async def unreachable(self) -> list[str]:
        """Return a sentence for each daemon whose socket nothing listens on."""
        found = await asyncio.gather(*(daemon.unreachable() for daemon in self._tailscaleds))
        return [text for text in found if text is not None]

    async def faults(self) -> list[str]:
        """Return the errors that prevent asking the daemons (docs/protocol/http.md, /debug/check)."""
        found = await asyncio.gather(*(daemon.prove() for daemon in self._tailscaleds))
        return [fault for fault in found if fault is not None]

    async def close(self) -> None:
        """Close the connections and files of all checks."""
        for kind in self._kinds:
            for check in kind:
                await check.close()

    async def _ask_all(self, client: ClientIdentity) -> Answer:
        admitted = KNOWN
        for kind in self._kinds:
            answer = await _ask_kind(kind, client)
            if not answer.admits:
                return answer
            if answer.is_waived:
                admitted = answer
        if self.allow_list is not None:
            # A key may have left the list during the other checks.
            listed = await self.allow_list.ask(client)
            return admitted if listed.admits else listed
        return admitted

    async def _ask_any(self, client: ClientIdentity) -> Answer:
        answers: list[Answer] = []
        for kind in self._kinds:
            answers.append(await _ask_kind(kind, client))
            if answers[-1].decision is Decision.KNOWN:
                break
        return any_of(answers)


async def _ask_kind(kind: Sequence[Check], client: ClientIdentity) -> Answer:
    if len(kind) == 1:
        return await kind[0].ask(client)
    return any_of(await asyncio.gather(*(check.ask(client) for check in kind)))
