"""A changed configuration: applies the settings that can change while the server runs, and names the others.

The log's level and form, the mesh key and the region's other nodes change at once. All other changed settings are
logged as waiting for a restart, so that an operator knows that they are not in force.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from derper import log
from derper.config import Config
from derper.credentials.keys import load_mesh_key
from derper.protocol.keys import MeshKey
from derper.server.identity import Identity
from derper.server.life.reload import Facts, changed
from derper.server.mesh import Mesh

SECRET_SECONDS = 10.0
"""Seconds to wait for a secrets server; the cache has the secret of the start."""


class Settings:
    """The configuration in force; `read_again` returns the current one."""

    def __init__(self, config: Config, read_again: Callable[[], Config], identity: Identity, mesh: Mesh) -> None:
        self._config = config
        self._read_again = read_again
        self._identity = identity
        self._mesh = mesh

    async def reload(self) -> Facts:
        """Apply a changed configuration; an invalid one raises `ConfigError` and changes nothing."""
        new, mesh_key = await asyncio.to_thread(self._read)
        log.configure(logs=new.logs)
        new_key = mesh_key != self._identity.mesh_key
        self._identity.mesh_key = mesh_key
        await self._mesh.change(new.mesh.peers, anew=new_key)
        waiting = changed(replace(self._config, logs=new.logs, mesh=new.mesh), new)
        return {
            "log_level": new.logs.level,
            "mesh_key": "changed" if new_key else "as it was",
            "mesh_nodes": len(new.mesh.peers),
            **({"wait_for_a_restart": ", ".join(waiting)} if waiting else {}),
        }

    def _read(self) -> tuple[Config, MeshKey | None]:
        new = self._read_again()
        return new, load_mesh_key(new.mesh, new.roots, SECRET_SECONDS)
