"""The limit that a server may announce: so many bytes a second, so many at once (docs/protocol/protocol.md, Login).

A client keeps to it by dropping what exceeds it, not by waiting: what is relayed is datagrams. The clock is handed in.
"""

from derper.protocol.keys import KEY_LEN
from derper.protocol.reader import HEADER_LEN

OVERHEAD = HEADER_LEN + KEY_LEN  # what a packet costs beside its own bytes


class TokenBucket:
    """Full at first.

    Args:
        rate: bytes a second.
        burst: the most bytes at once; a packet of more never passes.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst  # at the time `_then`; never more than the burst
        self._then = now

    def take(self, packet_len: int, now: float) -> bool:
        """Return whether a packet of this length may be sent now; if so, count it."""
        self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
        self._then = now
        cost = packet_len + OVERHEAD
        if cost > self._tokens:
            return False
        self._tokens -= cost
        return True
