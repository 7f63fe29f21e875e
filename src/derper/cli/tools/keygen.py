"""`derper keygen`: creates a key file in the format of the server's `-c`, or a mesh key."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from derper.cli.tools import common
from derper.credentials.keys import key_file_bytes
from derper.errors import ConfigError
from derper.host import files
from derper.protocol.keys import KEY_LEN, MeshKey, NodePrivate


def main(words: Sequence[str]) -> int:
    """Run with the arguments after the tool's name."""
    parser = common.parser("keygen", "Make a key file, as -c wants it, or a mesh key for -mesh-psk-file.")
    parser.add_argument("file", nargs="?", metavar="FILE", help="write it here, for its owner alone; else print it")
    parser.add_argument("--mesh", action="store_true", help="a mesh key: the secret of a region's nodes")
    return common.finish("keygen", _make(parser.parse_intermixed_args(words)))


async def _make(asked: argparse.Namespace) -> int:
    if asked.mesh:
        mesh_key = MeshKey(os.urandom(KEY_LEN))
        text, what, public = mesh_key.to_text() + "\n", "the mesh key file", ""
    else:
        private = NodePrivate.from_entropy(os.urandom(KEY_LEN))
        text, what, public = key_file_bytes(private).decode("ascii"), "the key file", str(private.public())
    if asked.file:
        _write(Path(asked.file), text, what)
    result = {name: value for name, value in (("file", asked.file), ("public_key", public)) if value}
    if asked.json:
        common.show_json(result if asked.file else result | {"content": text})
        return 0
    if not asked.file:
        sys.stdout.write(text if asked.mesh else f"{text}\n")
    if public:
        common.print_remark(f"public key: {public}")
    return 0


def _write(path: Path, text: str, what: str) -> None:
    if path.exists():
        raise ConfigError(f"{path} already exists and keys are never overwritten; move it away or choose another name")
    files.write(path, text.encode("ascii"), what)
