"""Certificates by ACME (RFC 8555): got, renewed, and kept where the Go server keeps them.

Read in this order: `issuer` (each host's certificate from start to end), `renewal` (when it is renewed), `store` (what
is on disk), `order` (one certificate, step by step), `directory` (the CA: its account, and the bounds of what it may
send us), `challenges` (how a host is proved to be ours).

certbot's library speaks the protocol. It blocks, so every call of it goes through a `Worker`, with its time limit; all
else is on the loop.
"""
