"""The boundary between Python and Rust: the typed interface of the data plane.

No other package imports the extension. Rust accepts a connection, Python decides about it until its login, then Rust
relays. Before the switch, each step is an event to Python and a command to Rust. After the switch, Python gets one more
event, `Closed`. Events and commands are passed in batches, never one call per packet.

Read `events`, then `plane`, then `certificate` and `shared_key` (the key of a login). `extension` imports the compiled
part.
"""

from derper.dataplane.certificate import Certificate, Serves
from derper.dataplane.close_reason import CloseReason
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
    "CloseReason",
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
