"""The rate limit that a server may announce: bytes a second, and a burst (docs/protocol/protocol.md, Login).

A client drops packets that exceed it and never waits, because relayed packets are datagrams. The caller passes the
time.
"""

from derper.protocol.keys import KEY_LEN
from derper.protocol.reader import HEADER_LEN

OVERHEAD = HEADER_LEN + KEY_LEN  # bytes of a packet besides its payload


class TokenBucket:
    """A token bucket, full at first.

    Args:
        rate: Bytes a second.
        burst: Maximum bytes at once; a longer packet never passes.
        now: Seconds of a monotonic clock.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst  # at the time `_then`; at most the burst
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
