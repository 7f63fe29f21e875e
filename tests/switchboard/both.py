"""The model and the real switchboard, side by side: both get the same events, and have to agree on the results."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import _sim
from model import (
    FORWARD,
    PEER_GONE,
    PEER_PRESENT,
    RECV,
    Connection,
    Frame,
    Key,
    LoginKind,
    Rules,
    Switchboard,
    is_disco,
    packet_in,
)

SERVER_KEY: Final[Key] = b"\xee" * 32
RULES: Final = Rules(
    queue_depth=3,
    write_timeout={LoginKind.CLIENT: 1_800, LoginKind.MESH_PEER: 30_000, LoginKind.NODE: 5_000},
    keep_alive=60_000,
    server_key=SERVER_KEY,
)
MAILBOX: Final = 400  # bytes: the mailboxes between shards fill up all the time
GONE_FRAMES: Final = "peer_gone_disconnected_frames"
# Limits that only the real one has, and gauges.
NOT_MODELLED: Final = {
    "routes_forgotten", "packets_crossed", "mesh_keys_refused", "current_home_connections",
    "current_notideal_connections",
}  # fmt: skip


def split(data: bytes) -> tuple[list[Frame], bytes]:
    """Split a stream into its whole frames and the rest."""
    frames, at = [], 0
    while len(data) - at >= 5 and (end := at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")) <= len(data):
        payload = data[at + 5 : end]
        # Of an announcement, the switchboard decides only the key.
        frames.append(Frame(data[at], payload[:32] if data[at] == PEER_PRESENT else payload))
        at = end
    return frames, data[at:]


def stream_of(frame: Frame) -> tuple[object, ...]:
    """Return the stream in which this frame has a fixed order: a sender's packets of a kind, or one key's events."""
    if frame.type in (RECV, FORWARD):
        keys = 32 if frame.type == RECV else 64
        return frame.type, frame.payload[:keys], is_disco(packet_in(frame))
    if frame.type in (PEER_GONE, PEER_PRESENT):
        return PEER_GONE, frame.payload[:32]
    return (frame.type,)


def streams(frames: Iterable[Frame]) -> dict[tuple[object, ...], list[Frame]]:
    by_stream: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for frame in frames:
        stream = by_stream[stream_of(frame)]
        # PeerGone of a key may be repeated (see `Switchboard.repeats`); the number is compared as a count.
        if frame.type != PEER_GONE or stream[-1:] != [frame]:
            stream.append(frame)
    return by_stream


def world(*, shards: int, seed: int) -> _sim.World:
    """Return the real switchboard under the model's rules."""
    return _sim.World(
        shards=shards,
        seed=seed,
        queue_depth=RULES.queue_depth,
        mailbox=MAILBOX,
        write_timeout=RULES.write_timeout[LoginKind.CLIENT],
        mesh_write_timeout=RULES.write_timeout[LoginKind.MESH_PEER],
        link_write_timeout=RULES.write_timeout[LoginKind.NODE],
        keep_alive=RULES.keep_alive,
        server_key=SERVER_KEY,
    )


class Both:
    """A region's only node, twice: the model and the real one."""

    def __init__(self, *, shards: int, seed: int) -> None:
        self.model = Switchboard(RULES)
        self.real = world(shards=shards, seed=seed)
        self.conns: list[Connection] = []

    def connect(self, key: Key, guest: LoginKind, *, shard: int, home: int) -> Connection:
        conn = self.model.connect(key, guest)
        conn.party = self.real.join(key, guest, shard, home)
        self.conns.append(conn)
        self.real.run()
        assert self.real.is_switched(conn.party)
        return conn

    def say(self, conn: Connection, frames: list[Frame]) -> None:
        self.model.receive(conn, frames)
        self.real.send(conn.party, b"".join(map(bytes, frames)))

    def stall(self, conn: Connection) -> None:
        self.model.stall(conn)
        self.real.set_room(conn.party, 0)

    def resume(self, conn: Connection) -> None:
        self.model.resume(conn)
        self.real.set_room(conn.party, None)

    def finish(self, conn: Connection) -> None:
        self.model.leave(conn)
        self.real.finish(conn.party)

    def reset(self, conn: Connection) -> None:
        self.model.leave(conn)
        self.real.reset(conn.party)

    def close(self, conn: Connection) -> None:
        """Close a connection as Python does for an operator."""
        self.model.leave(conn)
        self.real.close(conn.party)

    def write_to(self, key: Key, frame: Frame) -> None:
        for conn in self.model.local.get(key, []):
            self.model.write(conn, frame)
        self.real.write_to(key, bytes(frame))

    def write_all(self, frame: Frame) -> None:
        for conn in self.model.members():
            if conn.guest is LoginKind.CLIENT:
                self.model.write(conn, frame)
        self.real.write_all(bytes(frame))

    def close_key(self, key: Key) -> None:
        for conn in list(self.model.local.get(key, [])):
            self.model.leave(conn)
        self.real.close_key(key)

    def pass_time(self, ms: int) -> None:
        # Shorter than any timeout: no wait can begin and time out within one step.
        step = min(RULES.write_timeout.values()) // RULES.grain * RULES.grain
        for at in range(0, ms, step):
            self.untie()
            self.model.pass_time(min(step, ms - at))
            self.real.pass_time(min(step, ms - at))

    def untie(self) -> None:
        """Prevent that two connections time out at the same moment: their order would not be fixed."""
        moments = set()
        for conn in self.model.connections():
            if conn.blocked_at is not None:
                moment = self.model.next_look(conn)
                if moment in moments:
                    self.resume(conn)
                moments.add(moment)
        self.real.run()

    def agree(self) -> None:
        """Run until all is idle; then compare every party's received frames, and all counters."""
        queued = self.real.run()
        for conn in self.conns:
            received, rest = split(self.real.receive(conn.party))
            assert not rest
            expected, conn.written = conn.written, []
            if received != expected:
                assert streams(received) == streams(expected), f"at {conn.key[:1].hex()}"
            assert self.real.is_open(conn.party) == conn.is_open
        self.conns = [conn for conn in self.conns if conn.is_open]
        assert queued == self.model.queued()
        assert self.real.board() == self.model.board()
        counters = {name: count for name, count in self.real.counters().items() if name not in NOT_MODELLED}
        repeated = counters.get(GONE_FRAMES, 0) - self.model.counters[GONE_FRAMES]
        if 0 < repeated <= self.model.repeats:
            counters[GONE_FRAMES] -= repeated
        assert counters == +self.model.counters
        assert self.real.drops() == self.model.drops
