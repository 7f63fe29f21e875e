"""A DERP relay for Tailscale and Headscale networks: Python decides, Rust relays.

    protocol/    the meaning of the bytes; pure
    server/      the relay's decisions, on asyncio
    dataplane/   the boundary to the Rust extension
    client/      a DERP client for any program
    prober/      derpprobe: checks relays as clients use them
    tools/       `derper doctor` and the other tools
    web/, metrics/, host/   shared by all programs: pages, metrics, the machine
    cli/         the programs: flags in, exit codes out
    config       the configuration that a server is built from
    errors       errors by blame

See ARCHITECTURE.md.
"""
