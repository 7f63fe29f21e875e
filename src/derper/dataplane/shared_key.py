"""The key of a login's box, computed where it costs less: it is nearly all of a login outside of TLS."""

from derper.dataplane.extension import native
from derper.protocol.keys import NodePrivate, NodePublic


class SharedKeyDeriver:
    """A private key, ready for many logins; agrees on the same keys as `NodePrivate` does."""

    def __init__(self, private: NodePrivate) -> None:
        self._native = native.SharedKeyDeriver(private.raw)

    def shared_with(self, theirs: NodePublic) -> bytes:
        """Return the 32-byte shared key.

        Raises:
            ValueError: a key of low order, with which anybody could.
        """
        return self._native.shared_with(theirs.raw)
