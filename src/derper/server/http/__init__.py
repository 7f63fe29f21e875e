"""All that the public ports serve beside the relay (docs/protocol/http.md).

`connection` (aiohttp over the data plane's connections), `pages`, `port80`, `bootstrap` with `rollout` (who is given
its answers), `tunnels` (CONNECT), `forwarded` (whom a proxy speaks for).
"""
