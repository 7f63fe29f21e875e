"""The server's sockets: bound here; the data plane accepts from them and reads them."""

import errno
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from derper.config import FIRST_SOCKET, Config, ListenAddress, Tcp
from derper.dataplane import DataPlane, Rate
from derper.errors import ConfigError

_log: FilteringBoundLogger = structlog.get_logger()

BACKLOG = 4096
UNSENT_LIMIT = 128 * 1024
"""Unsent bytes that a socket accepts (TCP_NOTSENT_LOWAT).

Bytes in the kernel can neither be dropped nor reordered, so a slow receiver should have few there.
"""
DATAGRAM_BUFFER = 1024 * 1024
"""Bytes of unread STUN requests that the kernel keeps, up to net.core.rmem_max: each tick reads them once."""
LONGEST_IDLE = 32_767
"""The kernel's maximum for TCP_KEEPIDLE, in seconds."""
LONGEST_USER_TIMEOUT = 2**31 - 1
"""The kernel's maximum for TCP_USER_TIMEOUT, in milliseconds."""
MAIN, HTTP, STUN, ADMIN = "main", "http", "stun", "admin"
"""The sockets' names in a hand-over."""
_HTTP_PORT = "-http-port (-1 for none)"
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


class Listening:
    """All listening sockets of a server; call `start` after everything else is ready."""

    def __init__(self, plane: DataPlane, config: Config) -> None:
        # Addresses with the ports that the kernel chose, set by `start`: the main listener, and plain HTTP beside TLS.
        self.address = ""
        self.http_address = ""
        self.sockets: dict[str, socket.socket] = {}  # by name, for a successor
        self._plane = plane
        self._config = config
        self._listeners: list[int] = []

    @property
    def port(self) -> int:
        """Return the main listener's port; as configured, maybe 0, before it has started."""
        main = self.sockets.get(MAIN)
        port: int = self._config.listeners.main.port if main is None else main.getsockname()[1]
        return port

    def start(self) -> None:
        """Start accepting connections and answering STUN.

        Raises:
            ConfigError: An address cannot be bound, or a handed-over socket has no use here.
        """
        config = self._config
        accept = config.relay.accept
        limit = Rate(accept.per_second, accept.burst) if config.serves_tls and accept.is_limit else None
        handed = HandedOver(config.supervision.sockets)
        # Bind all of them before accepting on any.
        if config.stun_address is not None:
            # Not fatal: the Go server also keeps running without STUN, and clients use the STUN server of another
            # relay.
            try:
                self.sockets[STUN] = handed.datagrams() or bind_stun(config.stun_address)
            except ConfigError as error:
                _log.error("cannot serve STUN", reason=str(error))
        if config.http_address is not None:
            beside = handed.stream(HTTP, config.http_address.port, config.relay.tcp)
            self.sockets[HTTP] = beside or listen(config.http_address, config.relay.tcp, _HTTP_PORT)
        if config.admin is not None and config.admin.address is not None:
            address = config.admin.address
            admin = handed.stream(ADMIN, address.port, config.relay.tcp)
            self.sockets[ADMIN] = admin or listen(address, config.relay.tcp, "-admin")
        main = handed.stream(MAIN, None, config.relay.tcp)
        self.sockets[MAIN] = main or listen(config.listeners.main, config.relay.tcp)
        handed.must_be_empty()
        self._accept(MAIN, tls=config.serves_tls, limit=limit)
        self.address = address_of(self.sockets[MAIN])
        if HTTP in self.sockets:
            self._accept(HTTP, tls=False)
            self.http_address = address_of(self.sockets[HTTP])
            _log.info("serving plain HTTP", address=self.http_address)
        if STUN in self.sockets:
            any_client = config.listeners.stun_any
            self._plane.serve_stun(self.sockets[STUN], any_client=any_client)
            _log.info("answering STUN", address=address_of(self.sockets[STUN]), any_client=any_client)

    def _accept(self, name: str, *, tls: bool, limit: Rate | None = None) -> None:
        listeners = self._config.listeners
        self._listeners.append(
            self._plane.listen(
                self.sockets[name],
                tls=tls,
                limit=limit,
                proxies=listeners.proxies,
                trusted=listeners.trusted_proxies,
                per_ip=listeners.per_ip,
            )
        )

    def stop_accepting(self) -> None:
        """Stop accepting connections; STUN requests are still answered."""
        for listener in self._listeners:
            self._plane.unlisten(listener)
        self._listeners.clear()

    def close(self) -> None:
        """Close the sockets."""
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()


class HandedOver:
    """The sockets that a service manager or the predecessor opened for this process (sd_listen_fds(3)).

    A socket is identified by its name. Without one, a datagram socket is for STUN and a stream socket is identified by
    its port.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._left = [(name, socket.socket(fileno=FIRST_SOCKET + at)) for at, name in enumerate(names)]
        for _, sock in self._left:
            sock.set_inheritable(False)

    def stream(self, name: str, port: int | None, tcp: Tcp) -> socket.socket | None:
        """Take the listening socket with this name, or else with this port; without a port, any remaining one."""
        streams = [entry for entry in self._left if entry[1].type == socket.SOCK_STREAM]
        named = [entry for entry in streams if entry[0] == name]
        fitting = [
            entry
            for entry in streams
            if entry[0] not in (MAIN, HTTP, ADMIN) and (port is None or entry[1].getsockname()[1] == port)
        ]
        for entry in (named or fitting)[:1]:
            self._left.remove(entry)
            tune(entry[1], tcp)
            return entry[1]
        return None

    def datagrams(self) -> socket.socket | None:
        """Take the datagram socket."""
        for entry in self._left:
            if entry[1].type == socket.SOCK_DGRAM:
                self._left.remove(entry)
                entry[1].setblocking(False)
                return entry[1]
        return None

    def must_be_empty(self) -> None:
        """Raise `ConfigError` if a socket is left: its opener expects it to be served."""
        if self._left:
            name, sock = self._left[0]
            raise ConfigError(
                f"the socket '{name}' on {sock.getsockname()} was handed over and nothing is served on it; "
                f"name the sockets {MAIN}, {HTTP}, {STUN} and {ADMIN}, and switch on what belongs to them"
            )


def listen(address: ListenAddress, tcp: Tcp, flag: str = "-a") -> socket.socket:
    """Return a listening, non-blocking socket; without a host, for IPv4 and IPv6, or for IPv4 if there is no IPv6.

    `flag` names the flag with the port, for errors.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    try:
        return _open(address, lambda family, host: _listen(family, host, address.port, tcp))
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {_advice(error, flag)}") from error


def bind_stun(address: ListenAddress) -> socket.socket:
    """Return a bound, non-blocking UDP socket, for the same families as `listen`.

    Raises:
        ConfigError: The address cannot be bound.
    """
    try:
        return _open(address, lambda family, host: _bind_datagrams(family, host, address.port))
    except OSError as error:
        advice = f"{_advice(error, '-stun-port')}; -stun=false does without"
        raise ConfigError(f"cannot answer STUN on {address}: {advice}") from error


def _open(address: ListenAddress, make: Callable[[socket.AddressFamily, str], socket.socket]) -> socket.socket:
    if address.host is not None:
        return make(socket.AF_INET6 if isinstance(address.host, IPv6Address) else socket.AF_INET, str(address.host))
    try:
        return make(socket.AF_INET6, "::")
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
        return make(socket.AF_INET, "0.0.0.0")


def _listen(family: socket.AddressFamily, host: str, port: int, tcp: Tcp) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        # Accepted sockets inherit the options, which saves five system calls per connection.
        tune(sock, tcp)
        sock.bind(_socket_address(family, host, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _socket_address(family: socket.AddressFamily, host: str, port: int) -> tuple[Any, ...]:
    """Return the address for `bind`, with the interface of `fe80::1%eth0` as a scope id."""
    return socket.getaddrinfo(host, port, family, flags=socket.AI_NUMERICHOST)[0][4]


def tune(sock: socket.socket, tcp: Tcp) -> None:
    """Set a socket's options for relaying, and make it non-blocking; accepted sockets inherit them."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_LIMIT)
    if tcp.keepalive_time > 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        idle = min(max(1, round(tcp.keepalive_time)), LONGEST_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    if tcp.user_timeout > 0:
        timeout = min(max(1, round(tcp.user_timeout * 1000)), LONGEST_USER_TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)


def _bind_datagrams(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    # Without SO_REUSEADDR, with which another program's UDP socket could take over the port.
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DATAGRAM_BUFFER)
        sock.setblocking(False)
        sock.bind(_socket_address(family, host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _advice(error: OSError, flag: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"another program uses that port; stop it, or choose another with {flag}"
        case errno.EACCES | errno.EPERM:
            return "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that address; choose another with -a"
        case socket.EAI_NONAME:
            return "this machine has no network interface of that name; choose another address with -a"
        case _:
            return error.strerror or str(error)


def address_of(sock: socket.socket) -> str:
    """Return a socket's bound address, in the format of flags and logs."""
    host, port, *more = sock.getsockname()
    if more and more[1]:  # a scope id
        host = f"{host}%{socket.if_indextoname(more[1])}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
