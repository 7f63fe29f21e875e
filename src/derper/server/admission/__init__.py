"""Who may connect, once a login has shown who it is (docs/protocol/admission.md, docs/admission.md).

Read `answers` first (what a check says, and how several become one), then the checks themselves: `tailscaled`, `url`,
which ask by `turns`.
`policy` puts those together that an operator asked for. Nothing here knows connections: the connections asks.
"""
