"""A check's last decision about a client, used while the check does not answer (`-verify-cache`)."""

import asyncio
from collections import OrderedDict
from dataclasses import replace
from typing import Final

from derper.protocol.keys import NodePublic
from derper.server.admission.answers import KNOWN, Answer, Check, ClientIdentity, Decision

MOST_KEYS: Final = 100_000


class CachedCheck:
    """A check whose last admission is reused for a limited time while the check does not answer.

    A rejection ends the reuse. If the relay had no capacity to ask the check, a stored admission is not used. Clients
    with one go first in the queue.
    """

    def __init__(self, check: Check, seconds: float) -> None:
        self._check = check
        self._seconds = seconds
        self._known = OrderedDict[NodePublic, float]()  # when the check last admitted each key, oldest first

    async def ask(self, client: ClientIdentity) -> Answer:
        """Return the decision about a client, or the last admission if the check does not answer."""
        now = asyncio.get_running_loop().time()
        was_known = now - self._known.get(client.key, -self._seconds) < self._seconds
        answer = await self._check.ask(replace(client, was_known=client.was_known or was_known))
        if answer.decision is Decision.UNKNOWN:
            return KNOWN if was_known else answer
        if answer.decision is Decision.NOT_ASKED:
            return answer
        self._known.pop(client.key, None)
        if answer.decision is Decision.KNOWN:
            self._known[client.key] = now
            if len(self._known) > MOST_KEYS:
                self._known.popitem(last=False)
        return answer

    async def close(self) -> None:
        """Close the check's connections and files."""
        await self._check.close()
