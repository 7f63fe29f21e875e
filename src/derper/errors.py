"""Errors by blame: the class shows which side must act.

    DerperError
    ├── ProtocolError   the peer broke the protocol: close the connection
    ├── ConfigError     the operator or the program asked for something impossible: change the setting
    └── NetworkError    the network or another server failed: try again

A bug of ours has no class here: any other exception is one, and only the outermost frame catches it.
"""


class DerperError(Exception):
    """The base of every error that this package raises on purpose.

    Source: docs/client.md, Lost connections.
    """


class ProtocolError(DerperError):
    """The peer sent bytes that the protocol does not allow.

    The message names the expected and the received lengths and types, never the peer's payload.

    Source: docs/protocol/protocol.md.
    """


class ConfigError(DerperError):
    """An argument, a flag, a file or an environment variable is invalid.

    The message is one sentence: what is wrong, where it was found, and how to correct it.

    Source: docs/client.md, Targets.
    """


class NetworkError(DerperError):
    """A connection or a name look-up failed, or was lost.

    Source: docs/client.md, Lost connections.
    """
