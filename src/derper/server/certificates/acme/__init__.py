"""Certificates by ACME (RFC 8555): ordered, renewed, and stored in the Go server's layout.

Read in this order: `issuer` (each host's certificate from start to end), `renewal` (the time of renewal), `store` (the
files), `order` (one certificate, step by step), `directory` (the CA: our account, and limits on its answers), `solvers`
(proofs that a host is ours).

certbot's library implements the protocol. It blocks, so each call of it runs in a `Worker` with a time limit;
everything else runs on the loop.
"""
