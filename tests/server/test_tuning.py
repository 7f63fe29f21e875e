"""Socket options as the kernel reports them: the server starts with any values of an operator."""

import socket

import pytest

from derper.config import Tcp
from derper.server.listeners import LONGEST_IDLE, LONGEST_USER_TIMEOUT, tune


@pytest.mark.parametrize(
    ("seconds", "idle", "user_timeout"),
    [
        (0.0001, 1, 1),
        (15.0, 15, 15_000),
        (36_000_000.0, LONGEST_IDLE, LONGEST_USER_TIMEOUT),
    ],
)
def test_times_are_the_configured_ones_within_the_kernels_limits(seconds: float, idle: int, user_timeout: int) -> None:
    with socket.socket() as sock:
        tune(sock, Tcp(keepalive_time=seconds, user_timeout=seconds, write_timeout=None))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == idle
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == user_timeout
