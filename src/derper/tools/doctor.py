"""Checks of a relay as a client uses it: one step at a time, so that the failing step is visible.

A relay's fault raises nothing: every step returns a `Finding`. Steps that depend on a failed one are skipped. Works
with any DERP relay.
"""

import asyncio
import email.utils
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

from cryptography import x509

from derper import certname
from derper.client import NodePrivate, Options, stun
from derper.client.connection import Connection
from derper.client.dial import addresses_over, connect_within
from derper.client.streams import TcpStream
from derper.client.target import PATH, Target
from derper.errors import DerperError, NetworkError, ProtocolError
from derper.protocol.frames import PING_LEN, Health, Ping, Pong, RecvPacket, SendPacket
from derper.protocol.keys import KEY_LEN
from derper.protocol.metacert import is_meta
from derper.protocol.upgrade import UpgradeAnswer, upgrade_request
from derper.tools.asking import http_get, read_head

STEP_SECONDS: Final = 5.0
STUN_TRIES: Final = 3
PACKET: Final = 1_200  # bytes, as WireGuard's are
SOON: Final = timedelta(days=14)
CLOCKS_APART: Final = 60.0  # seconds
_HTTP_PORT: Final = 80
_CHALLENGE: Final = "derper-doctor"
_VERSIONS: Final[tuple[Literal[4, 6], ...]] = (4, 6)


class State(StrEnum):
    """The result of a step."""

    GOOD = "good"
    RED = "red"
    NOTE = "note"  # neither good nor bad, or not requested


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    state: State
    text: str
    advice: str = ""  # the remedy


def _good(check: str, text: str) -> Finding:
    return Finding(check, State.GOOD, text)


def _note(check: str, text: str, advice: str = "") -> Finding:
    return Finding(check, State.NOTE, text, advice)


def _red(check: str, text: object, advice: str) -> Finding:
    return Finding(check, State.RED, str(text), advice)


@dataclass(frozen=True, slots=True)
class Examination:
    """All steps for one relay.

    Args:
        target: The relay.
        key: The key to log in with; None: two new keys.
        http_port: The port of plain HTTP beside TLS.
    """

    target: Target
    key: NodePrivate | None = None
    http_port: int = _HTTP_PORT

    async def run(self) -> AsyncIterator[Finding]:
        """Yield the findings, each as soon as it is known."""
        connects = False
        async for finding in self._reach_relay():
            connects |= finding.check.startswith("TCP") and finding.state is State.GOOD
            yield finding
        if connects and not self.target.node.stun_only:
            async for finding in self._relay():
                yield finding
        for version in _VERSIONS:
            async for finding in self._stun(version):
                yield finding
        if self.target.tls and not self.target.node.stun_only:
            yield await self._port_80()

    async def _reach_relay(self) -> AsyncIterator[Finding]:
        """Look names up and connect, over each family."""
        found_any, failed = False, []
        for version in _VERSIONS:
            name = f"IPv{version}"
            try:
                found = await addresses_over(self.target.node, version)
            except NetworkError as error:
                failed.append(f"{name}: {error}")
                continue
            if not found:
                continue
            found_any = True
            yield _good(f"DNS {name}", ", ".join(found))
            if self.target.node.stun_only:  # needs no TCP
                continue
            began = time.monotonic()
            off = replace(self.target.node, ipv4="none", ipv6="none")
            only = replace(off, ipv4=found[0]) if version == _VERSIONS[0] else replace(off, ipv6=found[0])
            try:
                (await connect_within(only, STEP_SECONDS)).close()
            except NetworkError as error:
                if _has_no(version, error):
                    yield _note(f"TCP {name}", f"not tried: this machine has no {name}")
                else:
                    yield _red(f"TCP {name}", error, _tcp_advice(str(error), self.target.node.port))
            else:
                yield _good(f"TCP {name}", f"connected in {_ms(began)}")
        if found_any and self.target.node.stun_only:
            yield _note("TCP", "not tried: the map says that the node answers STUN only")
        if not found_any:
            yield _red("DNS", "; ".join(failed), "give the name an A or AAAA record, or the map's node an IPv4")

    async def _certificate(self) -> Finding:
        """Shake hands and check the certificate; if it is not trusted, describe it."""
        try:
            stream = await self._stream(self.target)
        except DerperError as error:
            shown = await self._shown()
            if not shown:
                return _red("certificate", error, "is it TLS that is spoken on this port?")
            return _red("certificate", f"{error} ({_described(shown)})", _trust_advice(shown, self.target))
        info = stream.tls
        await stream.close()
        chain = [certificate for certificate in (info.chain if info else ()) if not is_meta(certificate)]
        if info is None or not chain:
            return _red("certificate", "none was presented", "serve one")
        text = f"{info.version}, {_described(chain)}"
        if advice := _dates_advice(x509.load_der_x509_certificate(chain[0]), datetime.now(UTC)):
            return _red("certificate", text, advice)
        if not any(is_meta(certificate) for certificate in info.chain):
            return _note("certificate", text + "; without the server's key, so logins take a round trip more")
        return _good("certificate", text)

    async def _shown(self) -> list[bytes]:
        """Return the presented chain without verifying it."""
        insecure = replace(self.target, node=replace(self.target.node, insecure_for_tests=True))
        try:
            stream = await self._stream(insecure)
        except DerperError:
            return []
        await stream.close()
        return [certificate for certificate in (stream.tls.chain if stream.tls else ()) if not is_meta(certificate)]

    async def _relay(self) -> AsyncIterator[Finding]:
        if self.target.tls:
            certificate = await self._certificate()
            yield certificate
            if certificate.state is State.RED:
                return
        yield await self._clock()
        upgrade = await self._upgrade()
        yield upgrade
        if upgrade.state is State.RED:
            return
        login = await self._login()
        yield login
        if login.state is State.RED:
            return
        yield await self._packet()
        yield await self._websocket()

    async def _upgrade(self) -> Finding:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                stream = await self._stream(self.target)
                try:
                    await stream.write(upgrade_request(self.target.authority, path=self.target.path))
                    answer = UpgradeAnswer.parse(await read_head(stream))
                finally:
                    await stream.close()
        except TimeoutError:
            return _red("upgrade", "no answer to the upgrade request", "does a proxy in front buffer upgrades?")
        except DerperError as error:
            return _red(
                "upgrade",
                error,
                "does a proxy in front pass upgrades on? Is the relay switched off (-derp)?",
            )
        return _good("upgrade", f"101, server key {answer.server_key or 'not told'}")

    async def _login(self) -> Finding:
        """Log in, and check that the connection stays: a rejected client may get a Health message before the close."""
        began, problem = time.monotonic(), ""
        try:
            connection = await self._log_in(self._private())
            try:
                took = _ms(began)
                await connection.send(Ping(bytes(PING_LEN)).encode())
                async with asyncio.timeout(STEP_SECONDS):
                    while not isinstance(message := await connection.next(), Pong):
                        problem = message.problem if isinstance(message, Health) else problem
            finally:
                await connection.close()
        except TimeoutError:
            return _red("login", "it lets us in and answers no ping", "look into the relay's log")
        except DerperError as error:
            text = f"{error}; it says: {problem}" if problem else error
            return _red("login", text, "does it verify its clients? Then give --key a key file that it admits")
        fast = ", fast start" if connection.connected.fast_start else ""
        return _good("login", f"in {took}{fast}")

    async def _packet(self) -> Finding:
        """Send a packet between two keys, or from the given key to itself."""
        packet = os.urandom(PACKET)
        try:
            async with asyncio.timeout(STEP_SECONDS), AsyncExitStack() as stack:
                clients = []
                for key in (self._private(), self._private())[: 1 if self.key else 2]:
                    connection = await self._log_in(key)
                    stack.push_async_callback(connection.close)
                    clients.append((key.public(), connection))
                (sender, alice), (receiver, bob) = clients[0], clients[-1]
                began = time.monotonic()
                await alice.send(SendPacket(receiver, packet).encode())
                while not isinstance(came := await bob.next(), RecvPacket):
                    pass
                took = _ms(began)
        except TimeoutError:
            return _red("packet", f"none arrived within {STEP_SECONDS:g} s", "look into the relay's log and its limits")
        except DerperError as error:
            return _red("packet", error, "look into the relay's log")
        if came != RecvPacket(sender, packet):
            return _red("packet", "another one came than was sent", "a bug of the relay, or of a proxy")
        return _good("packet", f"{PACKET:,} bytes from client to client in {took}")

    async def _websocket(self) -> Finding:
        try:
            connection = await self._log_in(self._private(), Options(websocket=True))
        except DerperError as error:
            return _red("WebSocket", error, "does a proxy in front pass WebSocket on? Browsers need it")
        await connection.close()
        if self.target.node.cert_name.startswith(certname.PIN):
            return _note("WebSocket", "logged in; but a browser knows no pins and will not trust this certificate")
        return _good("WebSocket", "logged in")

    async def _stun(self, version: Literal[4, 6]) -> AsyncIterator[Finding]:
        node, name = self.target.node, f"STUN IPv{version}"
        if node.stun is None:
            if version != _VERSIONS[0]:  # once is enough
                return
            if node.stun_only:
                advice = "set STUNPort to 0 or to the port of STUN, or STUNOnly to false"
                yield _red("STUN", "switched off in the map, for a node that answers STUN only", advice)
            else:
                yield _note("STUN", "switched off in the map")
            return
        try:
            found = await addresses_over(node, version)
        except NetworkError:
            return
        if not found:
            return
        began = time.monotonic()
        try:
            seen = await stun.ask(found[0], node.stun, STEP_SECONDS, every=STEP_SECONDS / STUN_TRIES)
        except NetworkError as error:
            if _has_no(version, error):
                yield _note(name, f"not tried: this machine has no IPv{version}")
                return
            yield _red(
                name,
                error,
                f"let UDP {node.stun} in, and look whether the relay runs with -stun and -stun-port {node.stun}",
            )
            return
        yield _good(name, f"sees us at {seen.ip} port {seen.port}, in {_ms(began)}")

    async def _port_80(self) -> Finding:
        """Send the request that clients use to detect captive portals."""
        check = f"port {self.http_port}"
        plain = Target(replace(self.target.node, derp_port=self.http_port), tls=False)
        try:
            async with asyncio.timeout(STEP_SECONDS):
                answer = await http_get(plain, "/generate_204", ("X-Tailscale-Challenge", _CHALLENGE))
        except (TimeoutError, NetworkError) as error:
            text = f"no answer over plain HTTP ({str(error) or 'in time'})"
            why = "needed for captive portal detection and for certificates by HTTP-01 (-http-port)"
            return _red(check, text, why) if plain.node.can_port_80 else _note(check, text, why)
        except ProtocolError as error:
            return _red(check, error, "another server answers on this port; check the address")
        response = answer.header("X-Tailscale-Response")
        if answer.status != 204 or response != f"response {_CHALLENGE}":  # noqa: PLR2004  an HTTP status
            text = f"/generate_204 is answered with {answer.status}, challenge with {response or 'nothing'}"
            return _red(check, text, "let /generate_204 through to the relay, with its headers")
        return _good(check, "/generate_204 is answered, with its challenge")

    async def _clock(self) -> Finding:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                answer = await http_get(self.target, f"{PATH}/probe")
        except (TimeoutError, DerperError) as error:
            return _red("clock", f"{PATH}/probe is not answered ({error})", "let it through to the relay")
        try:
            said = email.utils.parsedate_to_datetime(answer.header("Date"))
        except (TypeError, ValueError):
            return _note("clock", "the relay's answer has no time")
        apart = (said - datetime.now(UTC)).total_seconds()
        if abs(apart) > CLOCKS_APART:
            ahead = "ahead of" if apart > 0 else "behind"
            text = f"the relay's is {abs(apart):,.0f} s {ahead} ours"
            return _red(
                "clock", text, "let NTP set the clocks of both machines: the validity of certificates depends on them"
            )
        return _good("clock", "the relay's agrees with ours")

    def _private(self) -> NodePrivate:
        return self.key or NodePrivate.from_entropy(os.urandom(KEY_LEN))

    async def _log_in(self, key: NodePrivate, options: Options | None = None) -> Connection:
        return await Connection.open(self.target, key, options or Options(), dial_seconds=STEP_SECONDS)

    async def _stream(self, target: Target) -> TcpStream:
        sock = await connect_within(target.node, STEP_SECONDS)
        try:
            async with asyncio.timeout(STEP_SECONDS):
                return await TcpStream.open(target, None, sock)
        except TimeoutError as error:
            raise NetworkError(f"no TLS with it within {STEP_SECONDS:g} s") from error


def _has_no(version: int, error: NetworkError) -> bool:
    return version == 6 and "unreachable" in str(error)  # noqa: PLR2004  an IP version


def _described(chain: list[bytes]) -> str:
    leaf = x509.load_der_x509_certificate(chain[0])
    now = datetime.now(UTC)
    dates = _date_problem(leaf, now) or f"{(leaf.not_valid_after_utc - now).days} days left"
    issuer = leaf.issuer.rfc4514_string() if leaf.issuer != leaf.subject else "itself"
    return f"{leaf.subject.rfc4514_string() or 'no subject'} by {issuer or 'no issuer'}, chain of {len(chain)}, {dates}"


def _date_problem(leaf: x509.Certificate, now: datetime) -> str:
    return certname.date_problem(leaf.not_valid_before_utc, leaf.not_valid_after_utc, now)


def _dates_advice(leaf: x509.Certificate, now: datetime) -> str:
    """Return the remedy for a certificate's dates; empty if they are right for two more weeks."""
    if leaf.not_valid_before_utc > now:
        return "check the clock of this machine; if it is right, serve a certificate that is valid now"
    if leaf.not_valid_after_utc < now:
        return "renew it on the relay; until then clients reject it"
    return "renew it now: clients reject it once it has expired" if leaf.not_valid_after_utc - now < SOON else ""


def _trust_advice(chain: list[bytes], target: Target) -> str:
    leaf = x509.load_der_x509_certificate(chain[0])
    now = datetime.now(UTC)
    if _date_problem(leaf, now):
        return _dates_advice(leaf, now)
    pin = certname.pin_of(chain[0])
    if target.node.cert_name.startswith(certname.PIN):
        return f'if this certificate is the right one, write "CertName": "{pin}" into the map; else check the server'
    if leaf.issuer == leaf.subject:
        return f'clients trust a self-signed one by its pin: "CertName": "{pin}" in the map, --pin {pin} here'
    return f"serve one for {target.host}, with its whole chain, from an authority that clients trust"


def _tcp_advice(text: str, port: int) -> str:
    if "refused" in text:
        return f"start the relay, or look whether it listens on port {port} of this address"
    return f"let TCP {port} in: firewall, security group, port forwarding"


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.1f} ms"
