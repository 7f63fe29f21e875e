"""Two well-behaved clients that send packets to each other all the time, without loss or reordering.

They run beside a client that misbehaves, or at a server with a fault; their packets have to arrive all the same.
"""

import threading
from typing import Final, Self

from derpwire import SECONDS, Client, RelayAddress

_IN_FLIGHT: Final = 4
_PAUSE: Final = 0.001  # between two rounds, to leave time for the code under test
_SIZES: Final = (8, 62, 1_200, 9_000)


class Bystanders:
    """A pair that exchanges numbered packets from the start of the block to its end."""

    def __init__(self, door: RelayAddress) -> None:
        self._pair = (Client.join(door), Client.join(door))
        self._changed = threading.Condition()
        self._rounds = 0
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bystanders")

    @property
    def rounds(self) -> int:
        """The number of completed rounds; each is a few packets both ways."""
        return self._rounds

    def relay_on(self, rounds: int = 3) -> None:
        """Wait for this number of further rounds."""
        with self._changed:
            wanted = self._rounds + rounds
            self._changed.wait_for(lambda: self._rounds >= wanted or self._failure is not None, SECONDS)
            if self._failure is not None:
                raise AssertionError("the bystanders lost a packet") from self._failure
            assert self._rounds >= wanted, "the bystanders' packets do not arrive any more"

    def __enter__(self) -> Self:
        self._thread.start()
        self.relay_on()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.relay_on()
        finally:
            self._stop.set()
            self._thread.join()
            for client in self._pair:
                client.wire.close()

    def _run(self) -> None:
        try:
            while not self._stop.wait(_PAUSE):
                self._round()
                with self._changed:
                    self._rounds += 1
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001  told to whoever waits
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _round(self) -> None:
        first = self._rounds * _IN_FLIGHT
        packets = [
            number.to_bytes(8, "big") * (_SIZES[number % len(_SIZES)] // 8)
            for number in range(first, first + _IN_FLIGHT)
        ]
        for sender, receiver in (self._pair, self._pair[::-1]):
            for packet in packets:
                sender.send(receiver.key, packet)
        for sender, receiver in (self._pair, self._pair[::-1]):
            for packet in packets:
                came = receiver.packet()
                assert came.source == sender.key
                assert came.packet == packet, f"packet {came.packet[:8].hex()} came, {packet[:8].hex()} was next"
