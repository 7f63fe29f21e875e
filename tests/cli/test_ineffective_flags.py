"""A flag without effect in combination with others causes a warning at start with its name and a remedy."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from derper.cli import ineffective
from derper.cli.environment import Environment
from derper.cli.flags import DERPER_FLAGS
from derper.cli.goflags import parse
from derper.cli.ineffective import RULES
from derper.cli.settings import config_from

HOST, KEYS = "127.0.0.1", "/keys"
URL = "https://verify.example.com/"
TLS = ("-tls=on", "-hostname=derp.example.com", "-certdir=/certs")
EAB = ("-acme-eab-kid=k", "-acme-eab-key=AAAA")
ADMIN = "-admin=unix:/run/admin.sock"


@dataclass(frozen=True)
class Case:
    """Arguments with flags that have no effect, the beginning of the warning, and arguments in which they have one."""

    words: tuple[str, ...]
    warning: str
    effective: tuple[str, ...]


CASES = (
    Case(("-dev", "-a=:8443", "-c=/key"), "-a and -c have no effect: -dev listens on :3340", ("-a=:8443", "-c=/key")),
    Case(("-certmode=selfsigned",), "-certmode has no effect: the main listener is plain HTTP",
         (*TLS, "-certmode=manual")),
    Case(("-certmode=letsencrypt",), "-certmode has no effect: the main listener is plain HTTP",
         (*TLS, "-certmode=letsencrypt")),
    Case(("-http-port=8080", "-ace", "-accept-connection-limit=5"),
         "-http-port, -ace and -accept-connection-limit have no effect: the main listener is plain HTTP",
         (*TLS, "-http-port=8080", "-ace", "-accept-connection-limit=5")),
    Case((*TLS, "-certmode=manual", "-acme-email=a@b.test"), "-acme-email has no effect: -certmode=manual",
         (*TLS, "-acme-email=a@b.test")),
    Case((*TLS, *EAB), "-acme-eab-kid and -acme-eab-key have no effect: Let's Encrypt",
         (*TLS, *EAB, "-acme-directory=https://ca.example.com/")),
    Case((*TLS, "-acme-directory=https://ca.example.com/", EAB[1]), "-acme-eab-key has no effect: the key's ID",
         (*TLS, "-acme-directory=https://ca.example.com/", *EAB)),
    Case((*TLS, "-accept-connection-burst=5"), "-accept-connection-burst has no effect: no limit of new connections",
         (*TLS, "-accept-connection-burst=5", "-accept-connection-limit=5")),
    Case(("-stun=false", "-stun-port=3479"), "-stun-port has no effect: STUN is off", ("-stun-port=3479",)),
    Case(("-stun-port=-1", "-stun-any"), "-stun-any has no effect: STUN is off", ("-stun-any",)),
    Case((ADMIN, "-admin-token-file=/token"), "-admin-token-file has no effect: -admin is a unix socket",
         ("-admin=127.0.0.1:0", "-admin-token-file=/token")),
    Case(("-socket=/a.sock",), "-socket has no effect: tailscaled is not asked",
         ("-socket=/a.sock", "-verify-clients")),
    Case(("-verify-client-url-fail-open=false",), "-verify-client-url-fail-open has no effect: no controller",
         ("-verify-client-url-fail-open=false", f"-verify-client-url={URL}")),
    Case(("-verify-any", "-verify-clients"), "-verify-any has no effect: there are not two kinds",
         ("-verify-any", "-verify-clients", f"-allow-keys={KEYS}")),
    Case(("-verify-cache=1h", "-verify-interval=1m", f"-allow-keys={KEYS}"),
         "-verify-cache and -verify-interval have no effect: nothing is asked",
         ("-verify-cache=1h", "-verify-interval=1m", "-verify-clients")),
    Case(("-announce-limits",), "-announce-limits has no effect: there are no rate limits",
         ("-announce-limits", "-rate-config=/rates")),
    Case(("-secrets-path-prefix=x", "-secrets-cache-dir=/c"),
         "-secrets-path-prefix and -secrets-cache-dir have no effect: no secrets server",
         ("-secrets-path-prefix=x", "-secrets-cache-dir=/c", "-secrets-url=https://setec.example.com")),
    Case(("-mesh-psk-file=/k", "-secrets-url=https://setec.example.com"),
         "-mesh-psk-file has no effect: the mesh key comes from -secrets-url", ("-mesh-psk-file=/k",)),
    Case(("-derp=false", "-verify-clients", "-rate-config=/r"),
         "-verify-clients and -rate-config have no effect: -derp=false", ("-verify-clients", "-rate-config=/r")),
)  # fmt: skip


def warnings(*words: str, **environ: str) -> list[str]:
    line = parse(DERPER_FLAGS, ("-a=127.0.0.1:0", *words) if "-dev" not in words else words)
    config = config_from(line, Environment(environ, is_root=True, cores=2))
    return list(ineffective.warnings(line, config, environ))


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.words))
def test_a_flag_without_effect_is_one_warning_that_names_it(case: Case) -> None:
    (warning,) = warnings(*case.words)
    assert warning.startswith(case.warning)
    assert re.fullmatch(r"[^;]+; [^;]+", warning), "what to change stands after a semicolon"
    assert warnings(*case.effective) == []


def test_every_rule_has_a_case() -> None:
    reasons = {warning.partition("effect: ")[2] for case in CASES for warning in warnings(*case.words)}
    assert reasons == {rule.reason for rule in RULES}


@pytest.mark.parametrize(
    "words",
    [(), ("-stun=false",), ("-http-port=-1",), ("-stun=false", "-stun-port=-1"), ("-verify-interval=0",), ("-dev",),
     ("-verify-client-url-fail-open=true",), ("-hostname=derp.example.com",), (*TLS, "-http-port=-1")],
    ids=str,
)  # fmt: skip
def test_a_default_or_a_disabled_feature_is_no_warning(words: tuple[str, ...]) -> None:
    assert warnings(*words) == []


def test_a_mesh_key_in_the_environment_has_an_effect_only_with_dev() -> None:
    (warning,) = warnings(TAILSCALE_DERPER_MESH_KEY="99" * 32)
    assert warning.startswith("the environment variable TAILSCALE_DERPER_MESH_KEY has no effect: it is read with -dev")
    assert "99" not in warning
    assert warnings("-dev", TAILSCALE_DERPER_MESH_KEY="99" * 32) == []


def test_the_settings_file_is_checked_too_and_the_tool_shows_the_warnings(tmp_path: Path) -> None:
    (tmp_path / "derper.toml").write_text('a = ":8080"\nacme-email = "a@b.test"\n[verify]\nany = true\n')
    words = ("settings", "-c", str(tmp_path / "key"), "-settings", str(tmp_path / "derper.toml"))
    done = subprocess.run(
        [sys.executable, "-m", "derper", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == [
        "-acme-email has no effect", "-verify-any has no effect",
    ]  # fmt: skip
