"""The Go programs that the tests run beside ours, built from source at pinned versions.

Each is a separate small module (`goserver/`, `goclient/`, `acmeserver/` ...), because their dependencies conflict.
`program` builds missing programs into `.cache/go/`, under a name that changes with the sources: a second run builds
nothing. `python tests/interop/parts.py` builds all of them. Nothing here starts a server: see `relays.py`.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
CACHE: Final = HERE.parents[1] / ".cache" / "go"

NO_GO: Final = (
    "the tests with the real Tailscale client need the Go tool, and `go` is not on the PATH. "
    "Any Go from 1.21 on will do, as it fetches the release that a module asks for: "
    "https://go.dev/dl/, or `apt-get install golang-go` where that is new enough"
)

# The modules need a newer Go than most systems have: `go` fetches it. A build must not depend on a C compiler,
# on a workspace around the repository, or on versions that are not in go.sum.
GO_ENVIRONMENT: Final = {
    "GOTOOLCHAIN": "auto",
    "GOFLAGS": "-mod=readonly -buildvcs=false -trimpath",
    "GOWORK": "off",
    "CGO_ENABLED": "0",
}


class PartError(Exception):
    """A program cannot be built here; the message has the missing program and how to install it."""


@dataclass(frozen=True)
class Part:
    """The build of one program: `package` of the module in `folder`, with go.mod or another file, `modfile`."""

    folder: str
    package: str
    tags: str = ""
    modfile: str = field(default="go.mod", repr=False)


# With the command line in the same program, without features that userspace nodes do not use: half the time.
_LEFT_OUT: Final = (
    "acme appconnectors aws bird capture clientupdate cloud completion conn25 dbus desktop_sessions doctor "
    "drive identityfederation iptables kube networkmanager oauthkey portmapper posture qrcodes "
    "relayserver remoteconfig resolved serve ssh synology syspolicy systray taildrop tailnetlock tap tpm "
    "wakeonlan webbrowser webclient "
)
TAILSCALED_TAGS: Final = ",".join(["ts_include_cli", *(f"ts_omit_{feature}" for feature in _LEFT_OUT.split())])

PARTS: Final = {
    "derper": Part("goserver", "tailscale.com/cmd/derper"),
    "autocert": Part("autocert", "."),
    "pebble": Part("acmeserver", "github.com/letsencrypt/pebble/v2/cmd/pebble"),
    "pebble-challtestsrv": Part("acmeserver", "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv"),
    "derpprobe": Part("goprobe", "tailscale.com/cmd/derpprobe"),
    "derpcheck": Part("goclient", ".", tags="ts_debug_websockets"),  # enables WebSockets, as in a browser
    "oldcheck": Part("oldclient", "."),
    "oldestcheck": Part("oldclient", ".", modfile="oldest.mod"),
    "tailscaled": Part("tailnet", "tailscale.com/cmd/tailscaled", tags=TAILSCALED_TAGS),
    "headscale": Part("headscale", "github.com/juanfont/headscale/cmd/headscale"),
    "setecserver": Part("setecserver", "."),
}


def program(name: str) -> Path:
    """Return the path of a Go program; build it if missing. Of several processes, one builds and the others wait.

    Raises:
        PartError: Go is missing, or the build fails.
    """
    part = PARTS[name]
    home = CACHE / f"{name}-{_fingerprint(part)}"
    if not home.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not home.exists():
                _build(name, part, home)
    return home / name


def _fingerprint(part: Part) -> str:
    digest = hashlib.sha256(repr((part, sorted(GO_ENVIRONMENT.items()), os.uname().machine)).encode())
    for path in sorted((HERE / part.folder).iterdir()):
        if path.suffix in (".mod", ".sum", ".go"):
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _build(name: str, part: Part, home: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise PartError(NO_GO)
    _say(f"building {name} from {part.folder} (the first time this downloads its modules: minutes) ...")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{name}-new-") as scratch:
        out = Path(scratch) / "out"
        done = subprocess.run(
            [go, "build", "-tags", part.tags, "-modfile", part.modfile, "-o", out / name, part.package],
            cwd=HERE / part.folder,
            env=os.environ | GO_ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise PartError(f"`go build` of {name} in {HERE / part.folder} failed:\n{done.stderr[-4000:]}")
        out.rename(home)
    _say(f"built {home / name} in {time.monotonic() - started:.0f} s")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> int:
    try:
        for name in PARTS:
            _say(f"{name}: {program(name)}")
    except PartError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
