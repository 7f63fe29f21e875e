"""Certificates of the TLS listener: their sources, and the one that each client gets (docs/certificates.md).

`tls` (the certificates in use), `sources` (the interface of a source), `manual` and `acme` (the two sources), `pem` and
`pairs` (files: reading, checking, replacing), `challenges` (responses to a CA over plain HTTP).
"""
