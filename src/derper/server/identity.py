"""The keys of a running server."""

from dataclasses import dataclass
from typing import Self

from derper.config import Config
from derper.credentials.keys import fresh_key, load_mesh_key, load_or_make_key
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic


@dataclass(slots=True)
class Identity:
    """The server's keys; `public` is derived once from `private`, and only a reload changes `mesh_key`."""

    private: NodePrivate
    public: NodePublic
    mesh_key: MeshKey | None  # never the zero key

    @classmethod
    def load(cls, config: Config) -> Self:
        """Read the configured keys; create the private key if its file is missing.

        Waits for a secrets server, if one is configured. Raises `ConfigError` if a file cannot be read, parsed or
        created.
        """
        private = fresh_key() if config.key_file is None else load_or_make_key(config.key_file)
        return cls(private, private.public(), load_mesh_key(config.mesh, config.roots))
