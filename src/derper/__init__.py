"""A DERP relay for Tailscale and Headscale networks: decided in Python, switched in Rust.

    protocol/    what the bytes mean; pure
    server/      the relay's decisions, on asyncio
    dataplane/   the seam to the Rust extension
    client/      a DERP client for any program
    prober/      derpprobe: whether relays do what clients need
    tools/       what `derper doctor` and its like do
    web/, metrics/, host/   what all programs share: pages, figures, the machine
    cli/         the programs: flags in, exit codes out
    config       the one object that a server is built from
    errors       errors by blame

ARCHITECTURE.md is the map.
"""
