"""The server's private key, and the mesh key that the nodes of its region share, from their files.

The key file has the Go server's format, byte for byte. So an operator can switch between the two programs, and clients
keep the same server key. A missing file is created; an existing one is never overwritten.
"""

import json
import os
from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from derper.config import Mesh, SecretsServer
from derper.credentials import secrets
from derper.errors import ConfigError, ProtocolError
from derper.host import files
from derper.host.trusted import TrustedRoots
from derper.protocol import gojson
from derper.protocol.keys import KEY_LEN, MeshKey, NodePrivate
from derper.redaction import conceal

_log: FilteringBoundLogger = structlog.get_logger()

_MEMBER = "PrivateKey"


def load_or_make_key(path: Path) -> NodePrivate:
    """Return the private key in a key file; create a missing file with a new key."""
    if not _exists(path):
        key = fresh_key()
        files.write(path, key_file_bytes(key), "the key file")
        conceal(key.to_text().rpartition(":")[2], str(path))
        _log.info("made a new private key", file=path, public_key=key.public())
        return key
    data = files.read(path, "the key file")
    try:
        key = parse_key_file(data)
    except ProtocolError as error:
        raise ConfigError(
            f"the key file {path} holds no private key ({error}); put the right one back, or move it away for a new key"
        ) from error
    conceal(key.to_text().rpartition(":")[2], str(path))
    return key


def key_file_bytes(key: NodePrivate) -> bytes:
    """Return the contents of a key file: JSON in the Go server's layout."""
    return json.dumps({_MEMBER: key.to_text()}, indent="\t").encode("ascii")


def parse_key_file(data: bytes) -> NodePrivate:
    """Return the key in a key file, parsed as by the Go server; raises `ProtocolError` if it is invalid."""
    texts = [value for name, value in gojson.members(data) if name == _MEMBER.casefold() and value is not None]
    if not texts:
        raise ProtocolError(f"JSON: wanted the member {_MEMBER}")
    key = NodePrivate.from_text(gojson.text(texts[-1], _MEMBER))
    if key.is_zero:
        raise ProtocolError("private key: all zeros")
    return key


def fresh_key() -> NodePrivate:
    """Return a new private key."""
    return NodePrivate.from_entropy(os.urandom(KEY_LEN))


def _exists(path: Path) -> bool:
    """Return whether the path exists. A dangling link counts: its target may return with its disk."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be accessed ({error.strerror}); correct the path") from error
    return True


def load_mesh_key(mesh: Mesh, trusted: TrustedRoots, patience: float | None = None) -> MeshKey | None:
    """Return the mesh key from the configured source; without one, None, and no connection is a mesh peer.

    If a secrets server has no key yet, it is asked again for `patience` seconds; None: for ever.
    """
    key = _mesh_key_from(mesh.key_source, trusted, patience)
    if key is not None and key.is_zero:
        key = None
    if key is None and mesh.peers:
        raise ConfigError("-mesh-with needs a mesh key and there is none; name its file with -mesh-psk-file")
    return key


def _mesh_key_from(
    source: MeshKey | Path | SecretsServer | None, trusted: TrustedRoots, patience: float | None
) -> MeshKey | None:
    if isinstance(source, SecretsServer):
        where, what, data = (
            source.url,
            f"the secret {source.name} of {source.url}",
            secrets.load(source, trusted, patience),
        )
        if not data:
            return None
    elif isinstance(source, Path):
        where, what, data = str(source), f"the mesh key file {source}", files.read(source, "the mesh key file")
    else:
        if source is not None:
            conceal(source.to_text(), "the environment")
        return source
    try:
        key = MeshKey.from_text(data.decode("utf-8"))
    except (ProtocolError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} does not hold a mesh key, which is 64 hex digits") from error
    conceal(key.to_text(), where)
    return key
