"""Pages, metrics and actions for operators (docs/protocol/http.md, metrics.md).

`pages` (the debug pages), `overview`, `clients` and `members` (their contents), `metrics` and `families` (the metrics),
`admin` (the admin listener) and `actions` (changes over it).
"""
