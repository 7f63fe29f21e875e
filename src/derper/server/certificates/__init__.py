"""Which certificate a TLS client is shown, and where it comes from (docs/certificates.md).

`tls` (what is shown to whom), `sources` (what a source of certificates does), `manual` and `acme` (the two sources),
`pem` and `pairs` (files: read, checked, replaced together), `challenges` (what a CA asks for over plain HTTP).
"""
