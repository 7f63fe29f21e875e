"""A check's decision about a client, and how the decisions of several checks are combined.

Pure. An `Answer` has one of four decisions. REFUSED rejects a client and disconnects a connected one. UNKNOWN may be
waived, and never disconnects a client. NOT_ASKED means that the relay had no capacity for the question. It always
rejects, even if the operator admits clients while a verifier is unreachable.
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
    was_known: bool = False  # a check has admitted the client before


class Decision(Enum):
    """A check's decision about a client."""

    KNOWN = auto()
    REFUSED = auto()
    UNKNOWN = auto()  # the check had no answer
    NOT_ASKED = auto()  # the check did not ask, because the relay had no room for one more question


class Cause(StrEnum):
    """The cause of a rejected login, a label of the metric `derper_logins_rejected`."""

    APP_NAME = "app_name"
    ALLOW_KEYS = "allow_keys"
    TAILSCALED = "tailscaled"
    CONTROLLER = "controller"
    NO_ANSWER = "no_answer"
    NOT_ASKED = "not_asked"
    INVALID = "invalid"  # the login itself is malformed


@dataclass(frozen=True, slots=True)
class Answer:
    """The decision of one check, or of all checks together."""

    decision: Decision
    reason: str = ""  # for the log; continues "client rejected:"
    user_message: str = ""  # for the client's user, without internal details
    is_waived: bool = False  # no answer, and the operator chose to fail open
    cause: Cause = Cause.NO_ANSWER  # unused for a known client

    @property
    def admits(self) -> bool:
        """True if the client may log in."""
        return self.decision is Decision.KNOWN or self.is_waived

    @property
    def rejection_frame(self) -> bytes:
        """The Health frame that shows the client's user the reason."""
        return Health(f"this relay rejected this device: {self.user_message}").encode()


KNOWN = Answer(Decision.KNOWN)


def refused(cause: Cause, reason: str, user_message: str) -> Answer:
    """Return a rejection."""
    return Answer(Decision.REFUSED, reason, user_message, cause=cause)


def unknown(reason: str, *, is_waived: bool = False) -> Answer:
    """Return the answer of a check that could not decide."""
    return Answer(Decision.UNKNOWN, reason, "it cannot be verified at the moment", is_waived)


def not_asked(reason: str) -> Answer:
    """Return the answer for a client that no check was asked about; never admits."""
    user_message = "too many devices are logging in now; this device will retry by itself"
    return Answer(Decision.NOT_ASKED, f"too many logins at once: {reason}", user_message, cause=Cause.NOT_ASKED)


class Check(Protocol):
    """A source of decisions. It limits its own time and never raises because another program failed."""

    async def ask(self, client: ClientIdentity) -> Answer:
        """Return the decision about a client."""

    async def close(self) -> None:
        """Close its connections and files."""


def any_of(answers: Sequence[Answer]) -> Answer:
    """Combine answers of one kind of check.

    One check that knows the client is enough. A missing answer is not a rejection.
    """
    for wanted in (lambda answer: answer.decision is Decision.KNOWN, lambda answer: answer.is_waived):
        if found := next(filter(wanted, answers), None):
            return found
    without = [answer for answer in answers if answer.decision in (Decision.UNKNOWN, Decision.NOT_ASKED)]
    deciding = without or answers
    reason = "; ".join(dict.fromkeys(answer.reason for answer in deciding))
    return Answer(deciding[0].decision, reason, deciding[0].user_message, cause=deciding[0].cause)
