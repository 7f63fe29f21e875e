"""What an operator sees of a running server, and may do to it (docs/protocol/http.md, metrics.md).

`pages` (the debug pages), `overview`, `clients` and `members` (what stands on them), `metrics` (what is counted, and
from where), `admin` (the listener for operators alone) and `actions` (what it may change).
"""
