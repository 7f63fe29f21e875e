"""HTTP on the public ports, except the relay itself (docs/protocol/http.md).

`connection` (aiohttp over the data plane's connections), `pages`, `port80`, `bootstrap` with `rollout` (shares of its
callers), `tunnels` (CONNECT), `forwarded` (client addresses from proxies).
"""
