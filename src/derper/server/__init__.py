"""The decisions of the relay: who it is, what it listens on, who may come in, what pages it shows.

Everything here runs on one asyncio loop and moves no packet. Read in this order: `app` (the whole), `identity`, `tls`,
`sources`, `manual` and `acme` (who we are, and by which certificates), `listeners`, `introduce` (a connection's way to
the switch), `login` (who it is) and `admission` (whether it may come in), `http`, `pages`, `port80`, `bootstrap` and
`tunnels` (all that is no relay),
`metrics`, `debug`, `overview`, `members` and `admin` (what is counted, and who sees it), and a process's life:
`reload`, `supervisor`, `drain`, `successor`.
"""
