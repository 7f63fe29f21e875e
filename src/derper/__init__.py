"""A DERP relay for Tailscale and Headscale networks: decided in Python, switched in Rust.

    protocol/    what the bytes mean; pure
    server/      the relay's decisions, on asyncio
    dataplane/   the seam to the Rust extension
    cli/         the programs: flags in, exit codes out
    config       the one object that a server is built from
    errors       errors by blame

ARCHITECTURE.md is the map.
"""
