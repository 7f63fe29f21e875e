"""The token of the admin listener, from its file."""

from pathlib import Path
from typing import Final

from derper.errors import ConfigError
from derper.host import files
from derper.redaction import conceal

_SHORTEST_TOKEN: Final = 16  # characters


def read_token(path: Path) -> bytes:
    """Return the token in a file.

    Raises:
        ConfigError: The file cannot be read, or the token is too short.
    """
    token = files.read(path, "the admin token").strip()
    if len(token) < _SHORTEST_TOKEN:
        raise ConfigError(f"the admin token {path} has {len(token)} characters; give it {_SHORTEST_TOKEN} or more")
    conceal(token.decode("utf-8", "replace"), str(path))
    return token
