"""The seam: the data plane as Python sees it. Nothing else in the package imports the extension.

A connection is born in Rust, introduced by Python, and from then on switched in Rust. Until it is switched, every step
is an event from here and a command back; afterwards it is heard of once more, when it is gone. Both ways travel in
batches, never a call per packet. Read `events`, then `plane`; beside connections `certificate` and `agreement` (the
key of a login). `extension` is where the compiled part comes in.
"""

from derper.dataplane.agreement import Agreement
from derper.dataplane.certificate import Certificate, Serves
from derper.dataplane.events import (
    AcceptFailed,
    Closed,
    Conn,
    Connected,
    Data,
    Dialled,
    Drained,
    Dropped,
    Event,
    Frame,
    Head,
    HeadTooLarge,
    Linked,
    Local,
    Member,
    Notice,
    Remote,
    Struggling,
    StunFailed,
    Switched,
    Totals,
    Unserved,
)
from derper.dataplane.plane import Audit, Census, DataPlane, Drops, Entry, PlaneSettings, Rate, Spread

__all__ = [
    "AcceptFailed",
    "Agreement",
    "Audit",
    "Census",
    "Certificate",
    "Closed",
    "Conn",
    "Connected",
    "Data",
    "DataPlane",
    "Dialled",
    "Drained",
    "Dropped",
    "Drops",
    "Entry",
    "Event",
    "Frame",
    "Head",
    "HeadTooLarge",
    "Linked",
    "Local",
    "Member",
    "Notice",
    "PlaneSettings",
    "Rate",
    "Remote",
    "Serves",
    "Spread",
    "Struggling",
    "StunFailed",
    "Switched",
    "Totals",
    "Unserved",
]
