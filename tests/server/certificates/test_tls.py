"""TLS as specified in docs/protocol/tls.md: versions, server names, certificates and key updates."""

import hashlib
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from derpwire import HOST, SECONDS, Client, RelayAddress, Wire
from serving import Recorded, Server, vectors

from derper.protocol import metacert
from derper.protocol.keys import NodePrivate

pytest_plugins = ["hall"]

NAME = "derp.example.test"
PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)


@pytest.fixture
def by_address(recorded: Recorded) -> Server:
    """A server for an IP address, with its self-signed certificate."""
    return recorded("plain", tls=True)


@pytest.fixture(scope="module")
def by_name(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for a DNS name, with an operator's certificate that has a second name."""
    folder = tmp_path_factory.mktemp("by-name")
    write_certificate(folder, NAME, "derp2.example.test")
    with Server(folder, tls=True, hostname=NAME) as server:
        yield server


@pytest.fixture(scope="module")
def frequent_updates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that changes its keys after every two records."""
    with Server(tmp_path_factory.mktemp("frequent_updates"), tls=True, tuning={"records_per_key": 2}) as server:
        yield server


def write_certificate(folder: Path, *names: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{names[0]}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{names[0]}.key").write_bytes(pem)


def handshake(server: Server, context: ssl.SSLContext, sni: str | None) -> ssl.SSLSocket:
    context.check_hostname = False
    return context.wrap_socket(server.raw_door.tcp(), server_hostname=sni)


def s_client(server: Server, *words: str, send: str = "") -> str:
    """Return the output of `openssl s_client` for a handshake."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{HOST}:{server.port}", *words],
        input=send, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


# The recordings for `letsencrypt` need a CA: test_acme_orders.py covers them.
HANDSHAKES = [case for case in vectors("http")["tls"] if case["server"] != "letsencrypt"]


@pytest.mark.parametrize("case", HANDSHAKES, ids=lambda case: case["name"])
def test_a_recorded_handshake_ends_as_recorded(by_address: Server, by_name: Server, case: dict[str, Any]) -> None:
    server = by_address if case["server"] == "tls-ip" else by_name
    # openssl's own client, because Python's has neither old versions nor upper-case names.
    sni = ("-noservername",) if case["sni"] is None else ("-servername", case["sni"])
    version = {"TLS 1.2": "-tls1_2", "TLS 1.1": "-tls1_1", "TLS 1.0": "-tls1"}.get(case["name"], "-tls1_3")
    said = s_client(server, *sni, version, "-cipher", "DEFAULT@SECLEVEL=0")
    takes_capitals = case["sni"] == NAME.upper()  # the TLS library lowers it; letter case does not matter to us
    if case["ok"] or takes_capitals:
        assert re.search(rf"New, {case.get('version', 'TLSv1.3')}, Cipher is ", said)
        assert "alert" not in said
    else:
        assert re.search(r"SSL alert number \d+", said)
        assert "New, (NONE), Cipher is (NONE)" in said


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
def test_clients_relay_over_either_version(by_address: Server, version: ssl.TLSVersion) -> None:
    context = by_address.new_context()
    context.minimum_version = context.maximum_version = version
    door = RelayAddress(by_address.port, context)
    with Client.join(door) as one, Client.join(door) as other:
        assert isinstance(one.wire.sock, ssl.SSLSocket)
        assert one.wire.sock.version() == version.name.replace("_", ".")
        for size in (0, 1_000, 20_000, 65_536):
            one.send(other.key, bytes(size))
            other.send(one.key, bytes(size))
            assert len(one.packet().packet) == len(other.packet().packet) == size


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [((), None), (("http/1.1",), "http/1.1"), (("h2", "http/1.1"), "http/1.1"), (("http/1.1", "h2"), "http/1.1")],
    ids=str,
)
def test_alpn_chooses_http_1_1(by_address: Server, offered: tuple[str, ...], chosen: str | None) -> None:
    context = by_address.new_context()
    if offered:
        context.set_alpn_protocols(offered)
    with handshake(by_address, context, None) as sock:
        assert sock.selected_alpn_protocol() == chosen


def test_a_client_that_offers_only_h2_is_rejected(by_address: Server) -> None:
    context = by_address.new_context()
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        handshake(by_address, context, None)


def test_the_logged_node_pins_the_certificate_that_is_served(by_address: Server) -> None:
    node = json.loads(by_address.logged(r'^\{"Name".*')[0])
    with handshake(by_address, by_address.new_context(), None) as sock:
        leaf = sock.getpeercert(binary_form=True)
    assert leaf is not None
    assert node["CertName"] == f"sha256-raw:{hashlib.sha256(leaf).hexdigest()}"
    assert node["HostName"] == HOST


def test_a_server_with_a_name_logs_no_node(by_name: Server) -> None:
    assert "CertName" not in by_name.log()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_the_chain_is_the_leaf_and_the_meta_certificate(by_address: Server, version: str) -> None:
    chain = [ssl.PEM_cert_to_DER_cert(pem) for pem in PEM.findall(s_client(by_address, "-showcerts", version))]
    assert len(chain) == 2
    assert chain[0] == ssl.PEM_cert_to_DER_cert(by_address.certificate.read_text())
    meta = metacert.find(chain)
    assert meta is not None
    assert meta.server_key == NodePrivate(bytes.fromhex(vectors("login")["client_info"]["server_private"])).public()
    assert meta.protocol_version == 2


class Openssl:
    """A DERP client over `openssl s_client`, which can change its keys on command."""

    def __init__(self, server: Server, *words: str) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                ["openssl", "s_client", "-connect", f"{HOST}:{server.port}", "-tls1_3", "-brief", *words],
                stdin=its.fileno(), stdout=its.fileno(), stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        ours.settimeout(SECONDS)
        self._wait_for("CONNECTION ESTABLISHED")
        self.client = Client(Wire(ours))

    def update_keys(self, *, both: bool) -> None:
        """Use new keys from here on; with `both`, ask the server to do so as well."""
        # A letter at the start of a read is a command, so no other bytes may be in flight.
        self.client.ping()
        self.client.wire.send(b"K\n" if both else b"k\n")
        self._wait_for("KEYUPDATE")

    def stop(self) -> None:
        self.client.wire.close()
        self._process.kill()
        self._process.communicate()

    def _wait_for(self, word: str) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if word in line:
                return
        raise AssertionError(f"openssl ended without saying {word}")


CIPHERS = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")


@pytest.fixture(params=CIPHERS)
def suite(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Flags for openssl that offer a single cipher of TLS 1.3."""
    return ("-ciphersuites", request.param)


@contextmanager
def openssl_and_peer(server: Server, *words: str) -> Iterator[tuple[Openssl, Client]]:
    openssl = Openssl(server, *words)
    try:
        openssl.client.upgrade()
        openssl.client.log_in()
        with Client.join(server.door) as peer:
            yield openssl, peer
    finally:
        openssl.stop()


def exchange(one: Client, other: Client, packet: bytes) -> None:
    one.send(other.key, packet)
    assert other.packet().packet == packet
    other.send(one.key, packet)
    assert one.packet().packet == packet


def test_packets_arrive_while_a_client_changes_its_keys(by_address: Server, suite: tuple[str, ...]) -> None:
    with openssl_and_peer(by_address, *suite) as (openssl, peer):
        for number in range(8):
            openssl.update_keys(both=number % 2 == 0)
            exchange(openssl.client, peer, number.to_bytes(4, "big") * 1_000)


def test_packets_arrive_while_the_server_changes_its_keys(frequent_updates: Server, suite: tuple[str, ...]) -> None:
    with openssl_and_peer(frequent_updates, *suite) as (openssl, peer):
        for number in range(8):
            exchange(openssl.client, peer, number.to_bytes(4, "big") * 16_000)
        for number in range(4):
            openssl.update_keys(both=number % 2 == 0)
            exchange(openssl.client, peer, number.to_bytes(4, "big") * 1_000)


def test_a_client_may_pad_and_split_its_records(by_address: Server) -> None:
    for words in (("-record_padding", "512"), ("-record_padding", "16384"), ("-max_send_frag", "512")):
        with openssl_and_peer(by_address, *words) as (openssl, peer):
            for size in (1, 500, 20_000, 65_536):
                exchange(openssl.client, peer, bytes([size % 251]) * size)


def test_a_client_that_sends_close_notify_ends_without_an_error(by_address: Server) -> None:
    with openssl_and_peer(by_address) as (openssl, _):
        key = openssl.client.key
        openssl.client.ping()
        openssl.client.wire.send(b"Q\n")  # openssl sends close_notify and ends
        assert by_address.logged(rf'event="client gone".*key={key}.*')[0].count("reason=eof") == 1
