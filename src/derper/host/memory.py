"""The memory that this process may use: the machine's, or its control group's limit if that is lower.

Containers and systemd's `MemoryMax=` set a control group's limit. Versions 1 and 2 of control groups are read, with any
mount point. `root` is the file system's root, for tests.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

_LIMIT_FILES: Final = {"cgroup2": "memory.max", "cgroup": "memory.limit_in_bytes"}
"""The file with a group's limit, by the type of the file system."""


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups that limits memory."""

    kind: str  # cgroup for version 1, cgroup2
    group: PurePosixPath  # the group whose directory is mounted
    point: PurePosixPath


def usable_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """Yield the limits of this process's groups and of all groups above them."""
    groups = dict(_groups(_read(root / "proc/self/cgroup")))
    for mount in _mounts(_read(root / "proc/self/mountinfo")):
        if (group := groups.get(mount.kind)) is None:
            continue
        inside = group.relative_to(mount.group) if group.is_relative_to(mount.group) else PurePosixPath()
        if ".." in inside.parts:  # the group is outside of this process's namespace
            inside = PurePosixPath()
        top = root / mount.point.relative_to("/")
        for folder in (inside, *inside.parents):
            with suppress(ValueError):  # no such file, or "max"
                yield int(_read(top / folder / _LIMIT_FILES[mount.kind]))


def _groups(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Parse /proc/self/cgroup: the group that limits memory, by the type of its file system."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", PurePosixPath(group)
        elif "memory" in controllers.split(","):
            yield "cgroup", PurePosixPath(group)


def _mounts(text: str) -> Iterator[_Mount]:
    """Parse /proc/self/mountinfo: the hierarchies that limit memory."""
    for line in text.splitlines():
        place, _, system = line.partition(" - ")
        match place.split(), system.split():
            case [_, _, _, group, point, *_], [kind, _, options, *_] if kind in _LIMIT_FILES:
                if kind == "cgroup2" or "memory" in options.split(","):
                    yield _Mount(kind, PurePosixPath(_unescaped(group)), PurePosixPath(_unescaped(point)))


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, in which spaces and some other characters are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _read(path: Path) -> str:
    """Return a file's text; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
