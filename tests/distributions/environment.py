"""Virtual environments with the distributions of this repository, built and installed by pip, without an index.

Their dependencies are those of the interpreter that runs the tests: a folder of links has exactly the direct and
indirect requirements of a distribution.
"""

import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distribution
from os import environ
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from relays import Relay
from tracked import ROOT

PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
OFFLINE: Final = ("--no-index", "--no-deps")
SERVER: Final = "derper"
CLIENT: Final = "derper-client"
PROJECTS: Final = {SERVER: ROOT, CLIENT: ROOT / "packaging/client"}


def build(project: Path, folder: Path, env: Mapping[str, str]) -> Path:
    """Build a wheel as `pip wheel` does, with the build tools of this environment."""
    folder.mkdir()
    run(*PIP, "wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", str(folder), str(project), env=env)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run(*command: str, env: Mapping[str, str] = environ, cwd: Path | None = None) -> str:
    """Run a program and return its output; an error shows all that it wrote."""
    done = subprocess.run(command, env=dict(env), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def requirements(wheel: Path) -> list[Requirement]:
    """Return a wheel's requirements."""
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    return [Requirement(line.removeprefix("Requires-Dist: ")) for line in lines if line.startswith("Requires-Dist: ")]


def closure(wanted: Iterable[Requirement]) -> dict[str, Distribution]:
    """Return the installed distributions that are required, directly or indirectly, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(requirement, {""}) for requirement in wanted]
    while waiting:
        requirement, extras = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if name not in found or requirement.extras:
            found[name] = distribution(name)
            more = map(Requirement, found[name].requires or ())
            waiting += [(each, requirement.extras or {""}) for each in more]
    return found


class Environment:
    """A virtual environment.

    Args:
        folder: The folder in which it is created.
        dependencies: The distributions that it has from the beginning.
    """

    def __init__(self, folder: Path, dependencies: Iterable[Distribution]) -> None:
        venv.create(folder / "env", symlinks=True)
        self.bin = folder / "env/bin"
        self.python = self.bin / "python"
        self.folder = folder
        packages = folder / "dependencies"
        packages.mkdir()
        for each in dependencies:
            top = {path.parts[0] for path in each.files or ()} - {"..", "__pycache__"}
            for name in top:
                if not (packages / name).exists():
                    (packages / name).symlink_to(Path(str(each.locate_file(name))))
        (site,) = (folder / "env/lib").glob("python*/site-packages")
        (site / "dependencies.pth").write_text(f"{packages}\n")
        self.site = site

    def install(self, wheel: Path) -> None:
        """Install a wheel."""
        run(*PIP, "--python", str(self.python), "install", *OFFLINE, "--no-compile", str(wheel))

    def uninstall(self, name: str) -> None:
        """Remove a distribution."""
        run(*PIP, "--python", str(self.python), "uninstall", "--yes", name)

    def run(self, *words: str) -> str:
        """Run its interpreter, isolated from this one's environment, and return the output."""
        return run(str(self.python), "-I", *words, cwd=self.folder)


class InstalledDerper(Relay):
    """The server as installed in an environment."""

    name = "installed"

    def __init__(self, folder: Path, environment: Environment) -> None:
        super().__init__(folder, tls=True)
        self._program = environment.bin / "derper"

    def command(self) -> list[str]:
        """The console script."""
        return [str(self._program)]
