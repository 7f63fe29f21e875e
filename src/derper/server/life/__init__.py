"""A server's process from start to end (docs/running.md).

`supervisor` (notifications to a service manager), `reload` and `live_settings` (changes while it runs), `drain`
(disconnecting clients), `successor` (hand-over to a new process), `orders` (signals).
"""
