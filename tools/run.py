"""The program of `make run`: starts a relay, sends a first packet through it, and runs the relay until Ctrl-C.

The relay is `derper -dev` in its own process, the packet is that of `examples/first_packet.py`. Exit code: 0 after
Ctrl-C or SIGTERM; otherwise the error was printed as a sentence.
"""

import asyncio
import errno
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from first_packet import relay_one  # noqa: E402  (the examples are no package)

from derper.errors import DerperError, NetworkError  # noqa: E402  (after it, for the same reason)

PORT: Final = 3340  # of -dev
URL: Final = f"http://127.0.0.1:{PORT}"
START_SECONDS: Final = 30
STOP_SECONDS: Final = 10
LOOK_AGAIN_SECONDS: Final = 0.01

NEXT: Final = f"""
True now:  a DERP relay serves {URL}, and a packet has crossed it. Ctrl-C ends it.
Try next:  .venv/bin/python examples/first_packet.py {URL}
With TLS:  .venv/bin/derper -certmode manual -hostname 127.0.0.1 -certdir .cache/tls -c .cache/tls/derper.key \
-a 127.0.0.1:3443 -http-port -1 -stun=false   (prints the line for your DERP map, with the pin that clients trust)
"""


async def serve() -> int:
    """Run the relay and the packet; return the exit code."""
    stopped = asyncio.Event()
    for ordered in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(ordered, stopped.set)
    if port_is_taken():
        print_line(
            f"port {PORT} is in use: end the program that listens there, perhaps another `make run`, and try again"
        )
        return 1
    # In its own process group, so that Ctrl-C reaches only us, and the relay gets one signal, not two.
    relay = await asyncio.create_subprocess_exec(sys.executable, "-m", "derper", "-dev", process_group=0)
    try:
        show = asyncio.create_task(first_packet(relay))
        stop = asyncio.create_task(stopped.wait())
        died = asyncio.create_task(relay.wait())
        await asyncio.wait((show, stop, died), return_when=asyncio.FIRST_COMPLETED)
        if show.done() and not show.result():
            return 1
        await asyncio.wait((stop, died), return_when=asyncio.FIRST_COMPLETED)
        show.cancel()
        if stopped.is_set():
            return 0
        print_line(f"the relay ended by itself, with exit code {relay.returncode}")
        return 1
    finally:
        await end(relay)


async def first_packet(relay: Process) -> bool:
    """Send the packet as soon as the relay listens, and print the result; return whether it arrived."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while relay.returncode is None:
                try:
                    await relay_one(URL, "", print_line)
                except NetworkError:  # the relay does not listen yet
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)
                else:
                    print_line(NEXT)
                    break
    except (DerperError, TimeoutError) as error:
        print_line(f"no packet came through the relay: {str(error) or 'nothing happened in time'}")
        return False
    return True  # the relay may also have ended, after printing its reason


async def end(relay: Process) -> None:
    """Stop the relay with SIGTERM, or kill it if it does not stop."""
    if relay.returncode is not None:
        return
    relay.terminate()
    try:
        await asyncio.wait_for(relay.wait(), STOP_SECONDS)
    except TimeoutError:
        print_line(f"the relay does not stop within {STOP_SECONDS} s of SIGTERM: killing it")
        relay.kill()
        await relay.wait()


def port_is_taken() -> bool:
    """Return whether the relay's port is in use, by binding it as the relay does."""
    for family, host in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            with socket.create_server((host, PORT), family=family, dualstack_ipv6=family == socket.AF_INET6):
                return False
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
    return False


@contextmanager
def the_terminal() -> Iterator[None]:
    """Receive Ctrl-C alone: otherwise `make` receives it, too, and reports an error after our clean end."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError:  # no terminal
        yield
        return
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # otherwise a background group could not take the terminal
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # the shell does not know our group, and could not resume it
    before = os.tcgetpgrp(terminal)
    in_front = before == os.getpgrp()
    if in_front:
        os.setpgid(0, 0)
        os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        if in_front:
            os.tcsetpgrp(terminal, before)
        os.close(terminal)


def print_line(line: str) -> None:
    """Print a line at once, for any kind of output."""
    print(line, flush=True)


def main() -> int:
    """Run with control of the terminal."""
    with the_terminal():
        return asyncio.run(serve())


if __name__ == "__main__":
    sys.exit(main())
