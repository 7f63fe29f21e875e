"""The decisions of the relay: who it is, what it listens on, who may come in, what the pages say.

Everything here runs on one asyncio loop and moves no packet. Read in this order: `app` (the whole), `identity` and
`secrets` (who we are), `listeners`, `introduce` (a connection's way to the switch), `login` (who it is), `rates` (how
much it may send), `struggles` (messages to limited clients), `connection_log` and `bounded_log` (log lines, bounded),
`mesh` (the other nodes).
The rooms beside: `certificates`, `admission` (whether a client may come in), `http` (all that is no relay), `debug`
(what operators see and do), `life` (from ready to gone).
"""
