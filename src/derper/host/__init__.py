"""The machine and requests to other servers, for all programs.

`files` (the operator's files, with clear errors), `names` (DNS within a deadline), `roots` (trusted roots of outgoing
TLS), `outgoing` (HTTP requests), `proxies` (their proxies), `worker` (blocking calls in a thread). Nothing here knows
relays.
"""
