"""The events of a history. Its source only chooses numbers, so it can be a seed or a shrinking test."""

from collections.abc import Callable
from typing import Final, TypeAlias

from both import SERVER_KEY, Both
from model import (
    CLOSE_PEER,
    FORWARD,
    HEALTH,
    NOBODY,
    PEER_GONE,
    PEER_PRESENT,
    PING,
    PREFERRED,
    SEND,
    WATCH,
    Connection,
    Frame,
    Key,
    LoginKind,
    is_disco,
)

Choose: TypeAlias = Callable[[int], int]
"""Returns a number below its argument."""

KEYS: Final[list[Key]] = [bytes([n]) * 32 for n in range(1, 6)] + [SERVER_KEY]
SIZES: Final = [0, 1, 57, 300]
GUESTS: Final = [LoginKind.CLIENT, LoginKind.CLIENT, LoginKind.CLIENT, LoginKind.MESH_PEER, LoginKind.NODE]
SMALL_TALK: Final = [Frame(PING, b"abcdefgh"), Frame(PING, bytes(9)), Frame(PREFERRED, b"\1"), Frame(PREFERRED, b"\0")]
SMALL_TALK_OF_THE_FUTURE: Final = [Frame(0x7F), Frame(0x7F, b"?")]
OFFENCES: Final = [Frame(SEND), Frame(PING), Frame(WATCH), Frame(FORWARD, bytes(64)), Frame(CLOSE_PEER, bytes(32))]
TICKS: Final = [1, 8, 14, 15, 16, 50, 200, 500]
GRAIN: Final = 128  # ms


def words(frame: Frame) -> str:
    """Return a readable form of a frame: keys by their first byte, packets by their serial number."""
    keys = {SEND: 1, FORWARD: 2, PEER_GONE: 1, PEER_PRESENT: 1, CLOSE_PEER: 1}.get(frame.type, 0)
    names = [frame.payload[at * 32 : at * 32 + 1].hex() for at in range(keys)]
    packet = frame.payload[keys * 32 :]
    disco = is_disco(packet)
    mark = packet[62 if disco else 0 :][:4].hex()
    return " ".join([f"{frame.type:#04x}", *names, "disco" if disco else "", f"{mark}, {len(packet)} bytes"])


class History:
    """One history of events."""

    def __init__(self, *, shards: int, seed: int) -> None:
        self.shards = shards
        self.both = Both(shards=shards, seed=seed)
        self.serial = 0
        self.told: list[str] = []

    def of_kinds(self, *guests: LoginKind) -> list[Connection]:
        return [conn for conn in self.both.conns if conn.guest in guests or not guests]

    def packet(self, choose: Choose) -> bytes:
        """Make a unique packet."""
        self.serial += 1
        head = b"TS\xf0\x9f\x92\xac" + bytes(56) if choose(2) else b""
        return head + self.serial.to_bytes(4, "big") + bytes(SIZES[choose(len(SIZES))])

    def tell(self, what: str, *subjects: object) -> None:
        self.told.append(
            " ".join([what, *(conn.tag() if isinstance(conn, Connection) else str(conn) for conn in subjects)])
        )

    # Events. `possible` returns those that can happen now.

    def connect(self, choose: Choose) -> None:
        key, guest = KEYS[choose(len(KEYS))], GUESTS[choose(len(GUESTS))]
        shard, home, chopped = choose(self.shards), choose(self.shards), choose(2)
        conn = self.both.connect(key, guest, shard=shard, home=home)
        self.tell("connect", conn, f"accepted at {shard}, home {home}", "chopped" if chopped else "")
        if chopped:
            self.both.real.chop(conn.party)

    def send(self, choose: Choose) -> None:
        conns = self.of_kinds(LoginKind.CLIENT, LoginKind.MESH_PEER)
        conn = conns[choose(len(conns))]
        frames = [Frame(SEND, KEYS[choose(len(KEYS))] + self.packet(choose)) for _ in range(1 + choose(6))]
        self.say(conn, frames)

    def forward(self, choose: Choose) -> None:
        sources = [*KEYS, NOBODY]
        conns = self.of_kinds(LoginKind.MESH_PEER)
        conn = conns[choose(len(conns))]
        frames = [
            Frame(FORWARD, sources[choose(len(sources))] + KEYS[choose(len(KEYS))] + self.packet(choose))
            for _ in range(1 + choose(4))
        ]
        self.say(conn, frames)

    def announce(self, choose: Choose) -> None:
        conns = self.of_kinds(LoginKind.NODE)
        conn = conns[choose(len(conns))]
        frames = []
        for _ in range(1 + choose(4)):
            key, news = KEYS[choose(len(KEYS))], choose(3)
            frames.append(Frame(PEER_PRESENT, key) if news < 2 else Frame(PEER_GONE, key + bytes([choose(2)])))
        self.say(conn, frames)

    def watch(self, choose: Choose) -> None:
        conns = self.of_kinds(LoginKind.MESH_PEER)
        self.say(conns[choose(len(conns))], [Frame(WATCH)])

    def close_peer(self, choose: Choose) -> None:
        conns = self.of_kinds(LoginKind.MESH_PEER)
        self.say(conns[choose(len(conns))], [Frame(CLOSE_PEER, KEYS[choose(len(KEYS))])])

    def talk(self, choose: Choose) -> None:
        conn = self.both.conns[choose(len(self.both.conns))]
        talk = SMALL_TALK + SMALL_TALK_OF_THE_FUTURE
        self.say(conn, [talk[choose(len(talk))]])

    def offend(self, choose: Choose) -> None:
        conns = self.of_kinds(LoginKind.CLIENT)
        self.say(conns[choose(len(conns))], [OFFENCES[choose(len(OFFENCES))]])

    def stall(self, choose: Choose) -> None:
        conn = self.both.conns[choose(len(self.both.conns))]
        self.tell("stall", conn)
        self.both.stall(conn)

    def resume(self, choose: Choose) -> None:
        stalled = [conn for conn in self.both.conns if conn.stalled]
        conn = stalled[choose(len(stalled))]
        self.tell("resume", conn)
        self.both.resume(conn)

    def leave(self, choose: Choose) -> None:
        conn = self.both.conns[choose(len(self.both.conns))]
        # A connection that Python closes gets its queued frames first, which other tests check.
        how = [self.both.finish, self.both.reset, self.both.close][choose(2 if conn.stalled else 3)]
        self.tell(how.__name__, conn)
        how(conn)

    def write(self, choose: Choose) -> None:
        key, frame = KEYS[choose(len(KEYS))], Frame(HEALTH, b"to one or to all")
        if choose(2):
            self.tell("write to", key[:1].hex())
            self.both.write_to(key, frame)
        else:
            self.tell("write to all clients")
            self.both.write_all(frame)

    def dismiss(self, choose: Choose) -> None:
        stalled = {conn.key for conn in self.both.conns if conn.stalled}
        key = KEYS[choose(len(KEYS))]
        if key not in stalled:
            self.tell("close all of", key[:1].hex())
            self.both.close_key(key)

    def pass_time(self, choose: Choose) -> None:
        ticks = TICKS[choose(len(TICKS))]
        self.tell(f"pass {ticks * GRAIN} ms")
        self.both.pass_time(ticks * GRAIN)

    def say(self, conn: Connection, frames: list[Frame]) -> None:
        self.tell("say", conn, *(f"\n    {words(frame)}" for frame in frames))
        self.both.say(conn, frames)

    def possible(self) -> list[Callable[[Choose], None]]:
        """Return the events that can happen now; an event listed twice is chosen twice as often."""
        events: list[Callable[[Choose], None]] = [self.connect, self.pass_time]
        if len(self.both.conns) < 4:
            events += [self.connect, self.connect]
        if self.both.conns:
            events += [self.talk, self.stall, self.leave, self.write]
        if any(conn.stalled for conn in self.both.conns):
            events += [self.resume]
        if self.of_kinds(LoginKind.CLIENT):
            events += [self.send, self.send, self.send, self.offend, self.dismiss]
        if self.of_kinds(LoginKind.MESH_PEER):
            events += [self.send, self.forward, self.forward, self.watch, self.close_peer]
        if self.of_kinds(LoginKind.NODE):
            events += [self.announce, self.announce]
        return events
