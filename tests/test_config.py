import dataclasses
import math
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from derper.cli import flags
from derper.cli.environment import Environment
from derper.cli.flags import DERPER_FLAGS
from derper.cli.goflags import parse
from derper.cli.settings import config_from
from derper.config import (
    AcceptLimit,
    Admission,
    BootstrapName,
    CertMode,
    Config,
    DebugAccess,
    ListenAddress,
    LogLevel,
    MeshPeer,
    SecretsServer,
    Tcp,
)
from derper.errors import ConfigError
from derper.host.trusted import TrustedRoots
from derper.protocol.keys import MeshKey, NodePublic

MESH_KEY = "2787e8c010bbdaef0c60bcdf8e00078ea005f42366ed723938b115fa6a8619e1"
IPS = st.ip_addresses(v=4) | st.ip_addresses(v=6)
PORTS = st.integers(0, 65535)


def config(*words: str, environ: dict[str, str] | None = None, root: bool = True) -> Config:
    surroundings = Environment({"HOME": "/nowhere/home", **(environ or {})}, is_root=root, cores=6)
    return config_from(parse(DERPER_FLAGS, words), surroundings)


def refusal(*words: str, environ: dict[str, str] | None = None, root: bool = True) -> str:
    with pytest.raises(ConfigError) as error:
        config(*words, environ=environ, root=root)
    return str(error.value)


def test_every_flag_has_the_documented_default() -> None:
    assert {flag.name: flag.default for flag in DERPER_FLAGS} == {
        "dev": False,
        "version": False,
        "a": ":443",
        "tls": "",
        "http-port": 80,
        "stun-port": 3478,
        "stun": True,
        "stun-any": False,
        "derp": True,
        "c": "",
        "admin": "",
        "admin-token-file": "",
        "certmode": "letsencrypt",
        "certdir": "",
        "hostname": "derp.tailscale.com",
        "acme-email": "",
        "acme-eab-kid": "",
        "acme-eab-key": "",
        "acme-eab-key-file": "",
        "acme-directory": "",
        "acme-directory-ca": "",
        "acme-dns-hook": "",
        "acme-ip-certs": False,
        "home": "",
        "mesh-psk-file": "",
        "mesh-with": "",
        "secrets-url": "",
        "secrets-path-prefix": "prod/derp",
        "secrets-cache-dir": "",
        "bootstrap-dns-names": "",
        "unpublished-bootstrap-dns-names": "",
        "verify-clients": False,
        "verify-client-url": (),
        "verify-client-url-fail-open": True,
        "verify-any": False,
        "verify-cache": 0.0,
        "verify-interval": 300.0,
        "allow-keys": "",
        "disallow-app-names": "",
        "socket": (),
        "accept-connection-limit": math.inf,
        "accept-connection-burst": 2**63 - 1,
        "connections-per-ip": 0,
        "proxy-protocol": "",
        "trusted-proxies": "",
        "rate-config": "",
        "announce-limits": False,
        "tcp-keepalive-time": 600.0,
        "tcp-user-timeout": 15.0,
        "tcp-write-timeout": 2.0,
        "shards": 0,
        "max-queued-bytes": 0,
        "ace": False,
        "drain-timeout": 10,
        "settings": "",
        "log-format": "auto",
        "log-level": "info",
    }


def test_without_flags_the_server_is_a_public_relay_on_443() -> None:
    made = config()
    assert made.serves_tls
    assert str(made.listeners.main) == ":443"
    assert str(made.http_address) == ":80"
    assert str(made.stun_address) == ":3478"
    assert (made.tls.mode, made.tls.hostname, made.tls.ip) == (CertMode.LETSENCRYPT, "derp.tailscale.com", None)
    assert made.key_file == Path("/var/lib/derper/derper.key")
    assert made.tls.directory == Path("/nowhere/home/.cache/tailscale/derper-certs")
    assert made.relay.enabled
    assert made.relay.tcp == Tcp(keepalive_time=600, user_timeout=15, write_timeout=2)
    assert made.relay.accept == AcceptLimit(math.inf, 2**63 - 1)
    assert not made.relay.accept.is_limit
    assert made.relay.send_queue_depth == 32
    assert made.relay.rate_file is None
    assert made.admission == Admission(
        frozenset(), (), (), url_fail_open=True, allow_keys=None, any_kind=False, cache=0, interval=300
    )
    assert made.mesh.key_source is None
    assert made.mesh.peers == ()
    assert made.pages.debug == DebugAccess(None, (), None)
    assert made.observation.rtt_stats
    assert made.roots == TrustedRoots(None, ())


def test_a_config_is_immutable() -> None:
    made = config()
    for part in (made, made.listeners, made.tls, made.relay, made.mesh):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, None)


def test_the_text_of_a_config_has_no_secrets() -> None:
    made = config("-dev", "-acme-eab-key", "c2VjcmV0", environ={"TAILSCALE_DERPER_MESH_KEY": MESH_KEY})
    assert MESH_KEY not in repr(made)
    assert "c2VjcmV0" not in repr(made)


def test_dev_is_plain_http_on_3340_with_a_new_key_and_only_the_environments_mesh_key() -> None:
    words = ("-dev", "-a", ":443", "-c", "/k", "-mesh-psk-file", "/p", "-secrets-url", "https://s")
    made = config(*words, environ={"TAILSCALE_DERPER_MESH_KEY": MESH_KEY}, root=False)
    assert made.dev
    assert str(made.listeners.main) == ":3340"
    assert not made.serves_tls
    assert made.http_address is None
    assert made.key_file is None
    assert made.mesh.key_source == MeshKey.from_text(MESH_KEY)
    assert config("-dev", "-mesh-psk-file", "/p").mesh.key_source is None


@pytest.mark.parametrize(
    ("words", "tls"),
    [
        (["-a", ":443"], True),
        (["-a", "127.0.0.1:443"], True),
        (["-a", ":8443"], False),
        (["-a", ":8443", "-certmode", "manual"], True),
        (["-a", ":8443", "-certmode", "gcp"], False),
    ],
)
def test_tls_is_served_on_port_443_and_with_manual_certificates(words: list[str], *, tls: bool) -> None:
    made = config(*words)
    assert made.serves_tls is tls
    assert (made.http_address is not None) is tls


def test_plain_http_and_stun_listen_on_the_main_address() -> None:
    made = config("-a", "[2001:db8::1]:443", "-http-port", "8080", "-stun-port=3479")
    assert str(made.http_address) == "[2001:db8::1]:8080"
    assert str(made.stun_address) == "[2001:db8::1]:3479"


def test_stun_is_for_tailscales_clients_unless_it_is_opened() -> None:
    assert not config().listeners.stun_any
    assert config("-stun-any").listeners.stun_any


def test_plain_http_and_stun_can_be_disabled() -> None:
    for words in (["-stun=false"], ["-stun-port=-1"], ["-stun=false", "-stun-port=70000"]):
        made = config("-http-port=-1", *words)
        assert made.http_address is None
        assert made.stun_address is None


@given(IPS | st.none(), PORTS)
def test_a_listen_address_is_read_back_unchanged(ip: str | None, port: int) -> None:
    assume(getattr(ip, "ipv4_mapped", None) is None)  # read as an IPv4 address
    address = ListenAddress(None if ip is None or str(ip) == "0.0.0.0" else ip_address(ip), port)
    assert ListenAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
        ("[::ffff:0.0.0.0]:1", ":1"),
        ("[fe80::1%eth0]:1", "[fe80::1%eth0]:1"),
        ("[127.0.0.1]:1", "127.0.0.1:1"),
        ("[localhost]:1", "127.0.0.1:1"),
    ],
)
def test_a_listen_address_has_the_forms_of_go(text: str, meant: str) -> None:
    assert str(ListenAddress.parse(text)) == meant


def test_a_listen_address_may_be_named_localhost_and_its_port_https() -> None:
    assert str(ListenAddress.parse("localhost:https")) == "127.0.0.1:443"
    assert str(ListenAddress.parse("127.0.0.1:")) == "127.0.0.1:0"


def test_the_unspecified_ipv4_address_means_both_families_as_in_go() -> None:
    assert ListenAddress.parse("0.0.0.0:443") == ListenAddress(None, 443)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "443",
        "127.0.0.1",
        ":ssh",
        ":-1",
        ":65536",
        "::1:443",
        "[::1]",
        "a.test:1",
        "[::1:1",
        ":²",
    ],
)
def test_other_listen_addresses_are_errors_with_the_valid_forms(text: str) -> None:
    assert "write ':port', 'ip:port' or '[ip6]:port'" in refusal("-a", text)


@given(st.text() | st.text("[]:.0123456789abcdef%"))
def test_a_garbled_listen_address_raises_only_a_config_error(text: str) -> None:
    try:
        ListenAddress.parse(text)
    except ConfigError as error:
        assert text in str(error)  # noqa: PT017  (garbage may also be an address)


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("a.test", MeshPeer("a.test", 443, "a.test")),
        ("a.test/10.0.0.1", MeshPeer("a.test", 443, "10.0.0.1")),
        ("a.test:8443/b.test", MeshPeer("a.test", 8443, "b.test")),
        ("[::1]:8443/[::2]", MeshPeer("::1", 8443, "::2")),
        ("[::1]", MeshPeer("::1", 443, "::1")),
    ],
)
def test_a_mesh_node_is_a_name_to_trust_and_a_name_to_dial(text: str, peer: MeshPeer) -> None:
    assert MeshPeer.parse(text) == peer


@pytest.mark.parametrize("text", ["a/b/c", "/b", "a/", ":1", "a:", "a:0", "a:65536", "a:x"])
def test_other_mesh_nodes_are_rejected(text: str) -> None:
    assert text in refusal("-mesh-psk-file", "/p", "-mesh-with", text)


def test_lists_lose_their_white_space_and_their_empty_items() -> None:
    made = config(
        *("-mesh-psk-file", "/p", "-mesh-with", "a, b,"),
        *("-disallow-app-names", " x ,,y"),
        *("-bootstrap-dns-names", "one,two", "-unpublished-bootstrap-dns-names", "three,four/txt.four"),
    )
    assert [peer.host for peer in made.mesh.peers] == ["a", "b"]
    assert made.admission.refused_app_names == {"x", "y"}
    assert made.pages.bootstrap_names == ("one", "two")
    assert made.pages.unpublished_bootstrap_names == (BootstrapName("three", None), BootstrapName("four", "txt.four"))


def test_the_mesh_key_file_is_the_configured_one_else_the_first_existing_default(tmp_path: Path) -> None:
    assert config("-mesh-psk-file", "/p").mesh.key_source == Path("/p")
    home = {"HOME": str(tmp_path)}
    assert config(environ=home).mesh.key_source is None
    default = tmp_path / "keys" / "derp-mesh.key"
    default.parent.mkdir()
    default.touch()
    assert config(environ=home).mesh.key_source == default
    assert config("-mesh-psk-file=", environ=home).mesh.key_source is None


def test_a_secrets_server_has_precedence_over_a_key_file() -> None:
    made = config("-secrets-url", "https://s.test", "-mesh-psk-file", "/p")
    cache = Path("/nowhere/home/.cache/derper-secrets")
    assert made.mesh.key_source == SecretsServer("https://s.test", "prod/derp/meshkey", cache)
    made = config("-secrets-url", "https://s.test", "-secrets-path-prefix", "x", "-secrets-cache-dir", "/c")
    assert made.mesh.key_source == SecretsServer("https://s.test", "x/meshkey", Path("/c"))


def test_there_is_one_shard_per_core_unless_the_environment_or_the_flag_sets_another_number() -> None:
    assert config().relay.shards == 6
    assert config(environ={"DERPER_SHARDS": "2"}).relay.shards == 2
    assert config("-shards", "3", environ={"DERPER_SHARDS": "2"}).relay.shards == 3
    assert config("-shards", "0", environ={"DERPER_SHARDS": "2"}).relay.shards == 6


def test_a_quarter_of_the_memory_is_for_queues_unless_the_flag_sets_another_value() -> None:
    assert config().relay.max_queued_bytes == 1 << 30
    assert config("-max-queued-bytes", "2000000").relay.max_queued_bytes == 2_000_000
    assert Environment.of_this_process().memory > 1 << 27


def test_a_part_of_the_memory_is_for_routes() -> None:
    assert config().relay.max_routes == 1 << 20


@pytest.mark.parametrize(("text", "depth"), [("64", 64), ("1", 1), ("0", 32), ("-5", 32), ("", 32)])
def test_a_send_queue_depth_below_one_is_ignored(text: str, depth: int) -> None:
    assert config(environ={"TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH": text}).relay.send_queue_depth == depth


def test_a_write_timeout_of_zero_means_no_timeout() -> None:
    assert config("-tcp-write-timeout=0").relay.tcp.write_timeout is None


def test_the_tailscaled_socket_is_used_only_if_clients_are_verified() -> None:
    assert config("-socket", "/s").admission.tailscaled_sockets == ()
    assert config("-verify-clients").admission.tailscaled_sockets == (Path("/var/run/tailscale/tailscaled.sock"),)
    assert config("-verify-clients", "-socket", "/s").admission.tailscaled_sockets == (Path("/s"),)


def test_repeated_sockets_and_urls_accumulate_and_an_empty_one_clears_the_earlier_ones() -> None:
    made = config(
        "-verify-clients", "-socket", "/a", "-socket=/b", "-verify-client-url=http://a", "-verify-client-url="
    )
    assert made.admission.tailscaled_sockets == (Path("/a"), Path("/b"))
    assert made.admission.urls == ()
    assert config("-verify-client-url=http://a", "-verify-client-url", "http://b").admission.urls == (
        "http://a",
        "http://b",
    )


def test_the_environment_is_read_into_types() -> None:
    key = NodePublic(bytes(range(32)))
    made = config(
        environ={
            "TS_DERP_SENDER_CARDINALITY": "1",
            "TS_DERP_DISABLE_RTT_STATS": "true",
            "TS_DEBUG_VERBOSE_DROPS": f"{key.hex()}, {key.hex()}",
            "DERP_DEBUG_LOGS": "T",
            "TS_ALLOW_DEBUG_IP": "192.0.2.1",
            "TS_DEBUG_TRUSTED_CIDRS": "10.1.2.3/8,2001:db8::/32",
            "TS_DEBUG_KEY_PATH": "/d",
            "SSL_CERT_FILE": "/ca.pem",
            "SSL_CERT_DIR": "/a:/b",
            "XDG_CACHE_HOME": "/cache",
        }
    )
    assert made.observation.count_senders
    assert not made.observation.rtt_stats
    assert made.observation.verbose_drops == {key}
    assert made.logs.level is LogLevel.DEBUG
    assert made.pages.debug == DebugAccess(
        ip_address("192.0.2.1"), (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")), Path("/d")
    )
    assert made.roots == TrustedRoots(Path("/ca.pem"), (Path("/a"), Path("/b")))
    assert made.tls.directory == Path("/cache/tailscale/derper-certs")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TS_DERP_SENDER_CARDINALITY", "yes"),
        ("TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH", "many"),
        ("TS_DEBUG_VERBOSE_DROPS", "nodekey:00"),
        ("TS_ALLOW_DEBUG_IP", "10.0.0.0/8"),
        ("TS_DEBUG_TRUSTED_CIDRS", "10.0.0.0/99"),
        ("WATCHDOG_USEC", "abc"),
        ("HTTPS_PROXY", "ftp://proxy.test"),
        ("HTTP_PROXY", "http://"),
    ],
)
def test_an_invalid_variable_of_the_machine_is_a_warning_and_has_no_effect(name: str, text: str) -> None:
    def made(environ: dict[str, str]) -> tuple[Config, list[str]]:
        surroundings = Environment({"HOME": "/nowhere/home", **environ}, is_root=True, cores=6)
        return config_from(parse(DERPER_FLAGS, ()), surroundings), list(surroundings.ignored.values())

    usual, no_warnings = made({})
    invalid, [warning] = made({name: text})
    assert not no_warnings
    assert invalid == usual
    assert warning.startswith(f"the environment variable {name} is not ")
    assert text not in warning
    assert warning.endswith("; correct or unset it")


@pytest.mark.parametrize("text", ["0x2", "-1"])
def test_an_invalid_variable_of_ours_is_an_error_that_names_it(text: str) -> None:
    assert "DERPER_SHARDS" in refusal(environ={"DERPER_SHARDS": text})


def test_the_error_for_an_invalid_mesh_key_does_not_contain_it() -> None:
    refused = refusal("-dev", environ={"TAILSCALE_DERPER_MESH_KEY": MESH_KEY[1:]})
    assert "TAILSCALE_DERPER_MESH_KEY" in refused
    assert MESH_KEY[1:] not in refused


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-certmode", "auto"], "-certmode"),
        (["-home", "page"], "-home"),
        (["-home", "ftp://a.test"], "-home"),
        (["-http-port", "65536"], "-http-port"),
        (["-stun-port", "65536"], "-stun-port"),
        (["-shards", "-1"], "-shards"),
        (["-max-queued-bytes", "-1"], "-max-queued-bytes"),
        (["-max-queued-bytes", "1000"], "-max-queued-bytes"),
        (["-tcp-user-timeout", "-1s"], "-tcp-user-timeout"),
        (["-verify-client-url", "a.test/verify"], "-verify-client-url"),
        (["-secrets-url", "a.test"], "-secrets-url"),
        (["-certdir", ""], "-certdir"),
        (["-hostname", ""], "-hostname"),
        (["-hostname", "192.0.2.1"], "-certmode=manual or -acme-ip-certs"),
        (["-hostname", "192.0.2.1", "-certmode", "gcp"], "-certmode=manual or -acme-ip-certs"),
        (["-certmode", "gcp", "-acme-ip-certs"], "-certmode=letsencrypt"),
        (["-hostname", "192.0.2.1", "-certmode", "manual", "-acme-ip-certs"], "-certmode=letsencrypt"),
        (["-a", ":8443", "-tls", "on", "-certmode", "auto"], "-certmode"),
        (["-certmode", "gcp"], "-acme-eab-kid"),
        (["-certmode", "gcp", "-acme-email", "a@b.test", "-acme-eab-kid", "k"], "-acme-eab-key"),
        (["-certmode", "gcp", "-acme-email", "a@b.test", "-acme-eab-kid", "k", "-acme-eab-key", "!"], "base64"),
        (["-acme-directory", "https://ca.test/", "-acme-eab-kid", "k", "-acme-eab-key", "!"], "base64"),
        (["-acme-eab-key", "aa", "-acme-eab-key-file", "k"], "remove one of them"),
        (["-acme-directory", "http://ca.test/directory"], "-acme-directory"),
        (["-hostname", "../x"], "-hostname"),
        (["-hostname", "é.test"], "xn--"),
        (["-hostname", "a." * 127 + "test"], "-hostname"),
        (["-tls", "yes"], "-tls"),
    ],
)
def test_the_error_for_an_invalid_flag_names_it(words: list[str], named: str) -> None:
    assert named in refusal(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["-home", "blank"],
        ["-home", "https://a.test/x"],
        ["-hostname", "192.0.2.1", "-certmode", "manual"],
        ["-hostname", "192.0.2.1", "-acme-ip-certs"],
        ["-hostname", "192.0.2.1", "-a", ":8080"],
        ["-certdir", "", "-a", ":8080"],
        ["-certmode", "auto", "-a", ":8080"],
        ["-certmode", "auto", "-dev"],
        ["-certmode", "gcp", "-acme-ip-certs", "-a", ":8080"],
        ["-tcp-keepalive-time", "-1s"],
        ["-certmode", "gcp", "-acme-email", "a@b.test", "-acme-eab-kid", "k", "-acme-eab-key", "c2VjcmV0"],
        ["-certmode", "gcp", "-acme-email", "a@b.test", "-acme-eab-kid", "k", "-acme-eab-key-file", "/k"],
        ["-acme-eab-kid", "k", "-acme-eab-key", "of no use with Let's Encrypt"],
        ["-hostname", "DERP_1.example.test."],
        ["-hostname", "é.test", "-certmode", "manual"],
    ],
)
def test_unusual_but_valid_flags_are_accepted(words: list[str]) -> None:
    config(*words)


def test_only_root_has_a_default_path_for_the_key() -> None:
    assert "-c" in refusal(root=False)
    assert config("-c", "/k", root=False).key_file == Path("/k")


def test_a_user_without_a_home_must_name_the_certificate_directory() -> None:
    assert "-certdir" in refusal(environ={"HOME": ""})
    assert config("-certdir", "/certs", environ={"HOME": ""}).tls.directory == Path("/certs")


def test_the_settings_read_every_flag() -> None:
    unused = {flag.name for flag in DERPER_FLAGS} - {"version", "settings"}  # the program's own
    source = Path(config_from.__code__.co_filename).read_text(encoding="utf-8")
    names = {value.name: name for name, value in vars(flags).items() if value in DERPER_FLAGS}
    assert {name for name in unused if f"flags.{names[name]}" not in source} == set()
