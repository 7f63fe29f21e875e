"""The tools besides the server (`derper doctor`, `derper map` and others), without a terminal.

The tools return values; `derper.cli.tools` parses arguments and prints results. Read in this order: `relays` (the
relays of an argument), `doctor` with `asking` (the checks of a relay), `mapentry` (this server's entry in a DERP map),
`admin` with `traffic` (a running server's admin listener).
"""
