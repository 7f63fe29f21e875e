"""What the tools beside the server do (`derper doctor`, `derper map` and their like), without a terminal.

Here results are values; `derper.cli.tools` reads the words and shows them. Read in this order: `relays` (which relays
an operator means), `doctor` with `asking` (what a client would meet at one), `mapentry` (what a DERP map says of this
server), `admin` with `traffic` (a running server from outside).
"""
