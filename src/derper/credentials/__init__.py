"""Keys, tokens and certificates: files and a secrets server. Blocking: for start-up, tools and threads.

The server, the prober and the tools stand on this package. Read `keys`, `tokens`, `secrets`; then `pem` (one
certificate) and `pairs` (its two files).
"""
