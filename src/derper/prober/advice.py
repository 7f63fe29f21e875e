"""Advice for a failed probe, by its class: its meaning, and the first things to check."""

from typing import Final

from derper.prober.probe import Kind

_ADVICE: Final = {
    Kind.MAP: "Nothing new is learnt of relays. Is the URL right, does its server answer, is the answer a DERP map?",
    Kind.TLS: (
        "Clients that trust no pin refuse this node, now or soon. Renew its certificate, or look why renewing fails; "
        "check that it is for the map's HostName and that the whole chain is served."
    ),
    Kind.UDP: (
        "Clients cannot find their own address here and measure no latency. Is the relay running with -stun, is UDP on "
        "the STUN port let in by the firewall, are the map's addresses and STUNPort right?"
    ),
    Kind.MESH: (
        "Clients of these two nodes do not reach each other. From a node to itself: is the relay up, would it admit a "
        "client? Between two: have both the same mesh key, does each name the other with -mesh-with, can they connect?"
    ),
    Kind.BANDWIDTH: (
        "Bulk transfers through the relay fail or stall. Look at its load, its drops in /debug/varz, and the path "
        "to it; a rate limit there slows this probe down too."
    ),
    Kind.QUEUING: "The connection through the relay broke; it is tried again after ten seconds. Did the relay restart?",
}


def advice(kind: Kind) -> str:
    """Return the advice as one or two sentences."""
    return _ADVICE[kind]
