"""Errors by blame: who has to act when one of these is raised.

    DerperError
    ├── ProtocolError   the peer broke the protocol: close it, say what was wanted and what came
    ├── ConfigError     the operator asked for something that cannot be: one sentence that says how to mend it
    └── NetworkError    the network or another server failed: try again, or tell whoever asked

A bug of ours has no class here: it is whatever Python raises, and nobody catches it but the outermost frame.
"""


class DerperError(Exception):
    """Base of every error that this package raises on purpose."""


class ProtocolError(DerperError):
    """The peer sent bytes that the protocol does not allow.

    The message names what was wanted and what came, with lengths and types, never with the peer's payload.
    """


class ConfigError(DerperError):
    """A flag, a file or an environment variable asks for something that cannot be.

    The message is one sentence for the operator: what is wrong, where it stands, how to mend it.
    """


class NetworkError(DerperError):
    """A connection or a name look-up failed for no fault of the peer's protocol or of the operator."""
