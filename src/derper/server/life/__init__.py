"""From ready to gone: a server's process between its start and its end (docs/running.md).

`supervisor` (what a service manager is told), `reload` and `resettle` (what changes while it runs), `drain` (how
clients are left), `successor` (who goes on on the same sockets).
"""
