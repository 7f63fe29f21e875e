"""The file of `-settings`: TOML with a value for any flag. The command line has priority.

A setting has its flag's name; a table's name is the part before a dash. So these two are equal:

    mesh-with = "a.example.com,b.example.com"

    [mesh]
    with = ["a.example.com", "b.example.com"]

Pure, except for reading the file. Every failure is a `ConfigError` that contains the entry's dotted name.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from derper.cli.goflags import Flag, Parsed
from derper.errors import ConfigError

_TYPES: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "text or a list of texts",
}


def under(line: Parsed, flag: Flag[str], flags: Iterable[Flag[Any]]) -> Parsed:
    """Return the command line merged over the settings file that this flag names, or unchanged without one.

    Raises:
        ConfigError: As for `read`.
    """
    return line.over(read(Path(line[flag]), flags)) if line[flag] else line


def read(path: Path, flags: Iterable[Flag[Any]]) -> dict[str, object]:
    """Return the values of the flags in the file, by the flags' names.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or has an entry with an unknown name or a wrong type.
    """
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(
            f"the settings {path} cannot be read ({error.strerror}); "
            "check that the file exists and that this user may read it"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"the settings {path} are not TOML: {error}") from error
    table = {flag.name: flag for flag in flags}
    found: dict[str, tuple[str, object]] = {}
    for dotted, value in _entries(document):
        name = dotted.replace(".", "-")
        if name not in table:
            raise ConfigError(f"the settings {path} have '{dotted}', which is not a setting{_suggestion(name, table)}")
        if name in found:
            raise ConfigError(
                f"the settings {path} have '{dotted}' and '{found[name][0]}', which are the same; keep one"
            )
        try:
            found[name] = dotted, _value(table[name], value)
        except ValueError as error:
            raise ConfigError(f"the settings {path} have '{dotted}' = {value!r}, {error}") from error
    return {name: value for name, (_, value) in found.items()}


def _entries(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _entries(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _suggestion(name: str, table: Mapping[str, object]) -> str:
    near = get_close_matches(name, table, n=1)
    return f"; did you mean '{near[0]}'?" if near else "; derper -h lists them all"


def _value(flag: Flag[Any], value: object) -> object:
    """Return a flag's value from a TOML value; text is parsed as on a command line."""
    default = flag.default
    if isinstance(value, list) and isinstance(default, str | tuple):
        if not all(isinstance(item, str) for item in value):
            raise ValueError("wanted a list of texts")
        if isinstance(default, tuple):
            return tuple(item for item in value if item)
        value = ",".join(value)
    if isinstance(value, str):
        try:
            return flag.kind.parse(value)
        except ValueError as error:
            raise ValueError(f"wanted {_wanted(flag)}: {error}") from error
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if flag.kind.name == "duration" or not (type(value) is type(default) or (is_number and isinstance(default, float))):
        raise ValueError(f"wanted {_wanted(flag)}")
    return float(value) if isinstance(default, float) and isinstance(value, int | float) else value


def _wanted(flag: Flag[Any]) -> str:
    return "a duration such as '1.5s'" if flag.kind.name == "duration" else _TYPES[type(flag.default)]
