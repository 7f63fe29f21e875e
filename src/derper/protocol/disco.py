"""Disco: small NAT-traversal packets that peers exchange through the relay to find a direct path.

The relay never opens them. It distinguishes them from other packets: disco packets have their own queue, and PeerGone
answers a disco packet with an unknown destination (docs/protocol/relay.md, Routing a SendPacket).
"""

from __future__ import annotations

DISCO_MAGIC = b"TS\xf0\x9f\x92\xac"
DISCO_MIN_LEN = len(DISCO_MAGIC) + 32 + 24  # magic, the sender's disco key, a nonce; the box may be empty


def is_disco(packet: bytes) -> bool:
    """Return whether a packet is a disco packet, by its length and first bytes.

    Args:
        packet: The packet's bytes.

    Source: docs/protocol/relay.md, Routing a SendPacket.
    """
    return len(packet) >= DISCO_MIN_LEN and packet.startswith(DISCO_MAGIC)
