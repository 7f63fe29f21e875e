"""Why a connection ended: the codes of `reason=` in the log, the same as Rust's `CloseReason`."""

from enum import StrEnum
from typing import Self


class CloseReason(StrEnum):
    """Why a connection ended; each with its meaning and its cure (docs/close-reasons.md)."""

    meaning: str
    cure: str

    def __new__(cls, code: str, meaning: str, cure: str) -> Self:
        """Return a member with this code, its meaning, and a cure for operators."""
        self = str.__new__(cls, code)
        self._value_ = code
        self.meaning = meaning
        self.cure = cure
        return self

    ACME_CHALLENGE = (
        "acme_challenge",
        "an ACME server validated a TLS-ALPN-01 challenge",
        "nothing: this is how a CA checks a host name",
    )
    BAD_REQUEST = (
        "bad_request",
        "the request head was malformed, or its target cannot be served",
        "if a proxy is in front, check its configuration; port scanners cause it too",
    )
    BUG = (
        "bug",
        "an internal error while the connection was handled",
        "report the traceback in the log",
    )
    CLOSED_BY_MESH_PEER = (
        "closed_by_mesh_peer",
        "another node of the region closed it, with the mesh key",
        "see the log of that node, or of the program that holds the mesh key",
    )
    CONNECT_FAILED = (
        "connect_failed",
        "the destination of a CONNECT tunnel (`-ace`) could not be reached",
        "check the destination's name and address, and outgoing connections",
    )
    CONNECT_REFUSED = (
        "connect_refused",
        "a CONNECT tunnel to this destination is not allowed",
        "tunnels lead only to the control plane",
    )
    DONE = (
        "done",
        "the answer was written, or the other node's link is no longer needed",
        "nothing",
    )
    DRAINING = (
        "draining",
        "this server drains before it stops",
        "nothing: clients reconnect",
    )
    EOF = (
        "eof",
        "the peer closed its side",
        "nothing; often in a TLS handshake: port scanners, or clients that reject the certificate",
    )
    EVICTED = (
        "evicted",
        "it made room for a new connection, because too many had not logged in, or too many tunnels were open",
        "if clients are affected, raise the limit of open files",
    )
    HEAD_TOO_LARGE = (
        "head_too_large",
        "the request head was too large",
        "if a proxy adds long headers, shorten them",
    )
    IDLE = (
        "idle",
        "no request came in time on an HTTP connection",
        "nothing",
    )
    LOGIN_FAILED = (
        "login_failed",
        "the login frame was malformed, too long, or sealed for another server key",
        "update the client; check that the DERP map names this server's key",
    )
    LOGIN_TIMEOUT = (
        "login_timeout",
        "no whole login frame came in time",
        "check the network between client and server; port scanners cause it too",
    )
    NO_CERTIFICATE = (
        "no_certificate",
        "no certificate matches the name that the TLS client sent",
        "check `-hostname` and the DERP map's `HostName`",
    )
    NO_RESOURCES = (
        "no_resources",
        "the system had no memory or descriptors for it",
        "raise the limit of open files, or add memory",
    )
    OPERATOR = (
        "operator",
        "an operator disconnected the client",
        "nothing",
    )
    PLAIN_HTTP_ON_TLS = (
        "plain_http_on_tls",
        "plain HTTP came on the TLS port",
        "use `https://`; plain HTTP has a port of its own (`-http-port`)",
    )
    PROTOCOL_ERROR = (
        "protocol_error",
        "the peer broke the protocol",
        "update the client; `detail` says what was wrong",
    )
    PROXY_HEADER = (
        "proxy_header",
        "the PROXY header was missing, malformed or late, or came from an address that is not a proxy's",
        "check `-proxy-protocol` and the proxy's configuration",
    )
    REFUSED = (
        "refused",
        "admission rejected the client, or the WebSocket lacks the subprotocol `derp`",
        "see `client rejected` in the log, and the page on admission",
    )
    RESET = (
        "reset",
        "the connection was reset",
        "nothing; often: check firewalls and NAT time-outs",
    )
    SETUP_TIMEOUT = (
        "setup_timeout",
        "the TLS handshake, the request head or the request body was not complete in time",
        "check the network between client and server; port scanners cause it too",
    )
    SILENT = (
        "silent",
        "a link or member sent nothing, not even a keep-alive, for its time limit",
        "check the network between the nodes",
    )
    STOPPED = (
        "stopped",
        "this server stopped",
        "nothing",
    )
    TIMEOUT = (
        "timeout",
        "a tunnel or stream passed its time limit",
        "nothing",
    )
    TLS_ERROR = (
        "tls_error",
        "the TLS handshake or a record failed",
        "check the certificate that clients trust; port scanners cause it too",
    )
    UNREAD = (
        "unread",
        "the client reads too slowly, and its frames fill the memory limit",
        "check the client's network; raise `-max-queued-bytes` if many are affected",
    )
    WRITE_TIMEOUT = (
        "write_timeout",
        "the client accepted no data for `-tcp-write-timeout`",
        "check the client's network",
    )


_BY_CODE = {reason.value: reason for reason in CloseReason}


def close_reason(code: str) -> CloseReason:
    """Return the reason with this code; `KeyError` if there is none."""
    return _BY_CODE[code]
