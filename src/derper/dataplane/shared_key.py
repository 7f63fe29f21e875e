"""The shared key of a login's box, computed in Rust: it is most of a login's cost besides TLS."""

from derper.dataplane.extension import native
from derper.protocol.keys import NodePrivate, NodePublic


class SharedKeyDeriver:
    """A private key prepared for many logins; computes the same keys as `NodePrivate`."""

    def __init__(self, private: NodePrivate) -> None:
        self._native = native.SharedKeyDeriver(private.raw)

    def shared_with(self, theirs: NodePublic) -> bytes:
        """Return the 32-byte shared key.

        Raises:
            ValueError: The key has low order, so anyone could compute the shared key.
        """
        return self._native.shared_with(theirs.raw)
