"""The relay's decisions: identity, listeners, logins, admission, and the contents of its pages.

Everything here runs on one asyncio loop and moves no packet. Read in this order:

- `app`: the whole server
- `identity` and `secrets`: the server's keys
- `listeners`: the listening sockets
- `connections`: a connection from accept to switch
- `login`: the login of one client
- `rates`: the rate limits of each client
- `impairments`: Health messages to limited clients
- `connection_log` and `bounded_log`: bounded log lines
- `mesh`: the other nodes of the region

The folders: `certificates`; `admission` (whether a client may log in); `http` (every request except the relay's);
`debug` (pages, metrics and actions for operators); `life` (start, reload, drain, hand-over).
"""
