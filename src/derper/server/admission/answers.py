"""A check's decision about a client, and how the decisions of several checks are combined.

Pure. An `Answer` has four values, because "no", "I cannot say" and "nobody was asked" mean different things: the first
keeps a client out and puts one out that is in, the second may be passed over, and never puts anybody out. The third is
a shortage of our own: it keeps a client out, whatever the operator wants of a verifier that is away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Protocol

from derper.protocol.frames import Health
from derper.protocol.keys import NodePublic


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """A client that proved its key, with the facts that checks use."""

    key: NodePublic
    ip: str
    was_known: bool = False  # a check has admitted it before


class Decision(Enum):
    """A check's decision about a client."""

    KNOWN = auto()
    REFUSED = auto()
    UNKNOWN = auto()  # the check had no answer
    NOT_ASKED = auto()  # the check did not ask, because the relay had no room for one more question


class Cause(StrEnum):
    """Why a login is refused, as the metric `derper_logins_rejected` names it."""

    APP_NAME = "app_name"
    ALLOW_KEYS = "allow_keys"
    TAILSCALED = "tailscaled"
    CONTROLLER = "controller"
    NO_ANSWER = "no_answer"
    NOT_ASKED = "not_asked"
    INVALID = "invalid"  # the login itself cannot be read


@dataclass(frozen=True, slots=True)
class Answer:
    """The decision of one check, or of all."""

    decision: Decision
    reason: str = ""  # for the log; whole after "client rejected:"
    told: str = ""  # for the client's user, without internals
    is_waived: bool = False  # no answer, and the operator chose to fail open
    cause: Cause = Cause.NO_ANSWER  # without meaning for a known client

    @property
    def admits(self) -> bool:
        """Whether a client may log in."""
        return self.decision is Decision.KNOWN or self.is_waived

    @property
    def rejection_frame(self) -> bytes:
        """The Health frame that shows the client's user the reason."""
        return Health(f"this relay rejected this device: {self.told}").encode()


KNOWN = Answer(Decision.KNOWN)


def refused(cause: Cause, reason: str, told: str) -> Answer:
    """Reject."""
    return Answer(Decision.REFUSED, reason, told, cause=cause)


def unknown(reason: str, *, is_waived: bool = False) -> Answer:
    """Return that there is no answer."""
    return Answer(Decision.UNKNOWN, reason, "it cannot be verified at the moment", is_waived)


def not_asked(reason: str) -> Answer:
    """Return the answer for a client that nobody was asked about; never admits."""
    told = "too many devices are logging in now; this device will retry by itself"
    return Answer(Decision.NOT_ASKED, f"too many logins at once: {reason}", told, cause=Cause.NOT_ASKED)


class Check(Protocol):
    """A source of decisions. It bounds its own time and never raises for another program's fault."""

    async def ask(self, client: ClientIdentity) -> Answer:
        """Return the decision about a client."""

    async def close(self) -> None:
        """Close its connections and files."""


def any_of(answers: Sequence[Answer]) -> Answer:
    """Combine answers of one kind: one that knows the client is enough; a missing answer is not a rejection."""
    for wanted in (lambda answer: answer.decision is Decision.KNOWN, lambda answer: answer.is_waived):
        if found := next(filter(wanted, answers), None):
            return found
    without = [answer for answer in answers if answer.decision in (Decision.UNKNOWN, Decision.NOT_ASKED)]
    deciding = without or answers
    reason = "; ".join(dict.fromkeys(answer.reason for answer in deciding))
    return Answer(deciding[0].decision, reason, deciding[0].told, cause=deciding[0].cause)
