"""The machine as all programs of ours use it, and what they share when they ask others.

`files` (the operator's, read with a sentence when that fails), `names` (resolved within a deadline), `roots` (whom
outgoing TLS trusts), `outgoing` (questions over HTTP), `proxies` (through whom they go), `worker` (calls that block,
off the loop). Nothing in here knows what a relay is.
"""
