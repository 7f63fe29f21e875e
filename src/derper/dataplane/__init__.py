"""The seam: the data plane as Python sees it. Nothing else in the package imports the extension.

A connection is born in Rust, introduced by Python, and from then on switched in Rust. Until it is switched, every step
is an event from here and a command back; afterwards it is heard of once more, when it is gone. Both ways travel in
batches, never a call per packet. Read `events`, then `plane`; beside connections `certificate` and `agreement` (the
key of a login). `extension` is where the compiled part comes in.
"""

from derper.dataplane.certificate import Certificate, Serves
from derper.dataplane.events import (
    AcceptFailed,
    ClientImpaired,
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
    MemberSnapshot,
    Notice,
    Remote,
    StunFailed,
    Switched,
    Totals,
    Unserved,
)
from derper.dataplane.plane import (
    Audit,
    DataPlane,
    Drops,
    HistogramSnapshot,
    LoginInfo,
    PlaneSettings,
    Rate,
    TableCounts,
)
from derper.dataplane.shared_key import SharedKeyDeriver

__all__ = [
    "AcceptFailed",
    "Audit",
    "Certificate",
    "ClientImpaired",
    "Closed",
    "Conn",
    "Connected",
    "Data",
    "DataPlane",
    "Dialled",
    "Drained",
    "Dropped",
    "Drops",
    "Event",
    "Frame",
    "Head",
    "HeadTooLarge",
    "HistogramSnapshot",
    "Linked",
    "Local",
    "LoginInfo",
    "MemberSnapshot",
    "Notice",
    "PlaneSettings",
    "Rate",
    "Remote",
    "Serves",
    "SharedKeyDeriver",
    "StunFailed",
    "Switched",
    "TableCounts",
    "Totals",
    "Unserved",
]
