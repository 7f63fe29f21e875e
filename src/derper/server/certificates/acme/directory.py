"""The CA: its directory, our account, and limits on its answers and on the requests that it can cause.

Everything here blocks and is called through a `Worker`. The CA is trusted to issue certificates, and for nothing else.
Its answers are limited in bytes, time and number. Only https is used, and each failure raises `OrderError`.
"""

import contextlib
import io
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import requests
from acme import client, messages
from acme import errors as acme_errors
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.b64 import b64encode
from josepy.jwa import ES256, ES384, ES512, RS256, JWASignature
from josepy.jwk import JWK, JWKEC, JWKRSA
from requests.adapters import HTTPAdapter

from derper import log
from derper._version import version
from derper.config import Acme, eab_key
from derper.credentials.pem import PrivateKey
from derper.errors import ConfigError, NetworkError
from derper.host import files, roots
from derper.host.proxies import Proxies
from derper.host.trusted import TrustedRoots
from derper.redaction import conceal
from derper.server.certificates.acme.store import Store

MOST_BYTES: Final = 1 << 20
MOST_REQUESTS: Final = 200  # per order
MOST_REDIRECTS: Final = 3
ANSWER_SECONDS: Final = 20.0  # for a connection, and between two reads of an answer
BODY_SECONDS: Final = 30.0
NONCE_TRIES: Final = 10
_BUSY: Final = (429, 503)
_CURVES: Final = {"secp256r1": ES256, "secp384r1": ES384, "secp521r1": ES512}


class OrderError(NetworkError):
    """An order failed; the CA may have sent a delay for the next one."""

    def __init__(self, reason: str, retry_after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class ChallengeError(OrderError):
    """The CA did not accept the proof for a host; another solver may succeed."""


class Ca:
    """One CA, for one order after another. Each method sends a request, and raises `OrderError` if that fails."""

    def __init__(self, settings: Acme, trusted: TrustedRoots, proxies: Proxies, store: Store) -> None:
        self._settings = settings
        self._trusted = trusted
        self._proxies = proxies
        self._store = store
        self._client: client.ClientV2 | None = None
        self._network: _Network | None = None

    @property
    def account_key(self) -> JWK:
        """The key that signs responses to challenges; needs an account."""
        with _blamed("the account"):
            key: JWK | None = self._open().net.key
        if key is None:
            raise OrderError("there is no account")
        return key

    def profiles(self) -> frozenset[str]:
        """Return the names of the profiles that the CA offers."""
        with _blamed("its directory"):
            return frozenset(self._open().directory["meta"].profiles or ())

    def begin(self, csr: bytes, profile: str | None) -> messages.OrderResource:
        """Order a certificate."""
        with _blamed("the order"):
            ca = self._open()
            if self._network is not None:
                self._network.requests_left = MOST_REQUESTS
            return ca.new_order(csr, profile)

    def answer(self, challenge: messages.ChallengeBody) -> None:
        """Notify the CA that a challenge is ready."""
        with _blamed("the challenge"):
            ca = self._open()
            ca.answer_challenge(challenge, challenge.chall.response(self.account_key))

    def poll(self, authorization: messages.AuthorizationResource) -> messages.AuthorizationResource:
        """Return the current state of a proof."""
        with _blamed("the authorization"):
            return self._open().poll(authorization)[0]

    def finalize(self, order: messages.OrderResource) -> messages.OrderResource:
        """Request the certificate of an order whose proofs are valid."""
        with _blamed("the certificate"):
            try:
                return self._open().begin_finalization(order)
            except messages.Error as error:
                if error.code != "orderNotReady":
                    raise
                return order  # `fetch` requests it again

    def fetch(self, order: messages.OrderResource, seconds: float) -> bytes | None:
        """Return the chain in PEM, or None if it is not ready."""
        with _blamed("the certificate"):
            try:
                # The library wants a local time without a zone, and waits one second before its first request.
                until = datetime.now() + timedelta(seconds=seconds)  # noqa: DTZ005
                chain = self._open().poll_finalization(order, until).fullchain_pem
            except acme_errors.TimeoutError:
                return None
            return chain.encode()

    def suggestion(self, chain: bytes) -> tuple[datetime | None, datetime]:
        """Return the renewal time that the CA suggests, if any, and when to ask again."""
        with _blamed("the renewal information"):
            when, again = self._open().renewal_time(chain)
            if when is not None and when.tzinfo is None:
                when = when.replace(tzinfo=UTC)
            return when, again.astimezone(UTC)

    def forget(self) -> None:
        """Fetch the directory and the account again at the next call: one of them may have changed."""
        self._client = None

    def _open(self) -> client.ClientV2:
        """Fetch the directory and our account, once."""
        if self._client is None:
            self._network = network = _Network(
                *_signing(self._store.account_key()), _Adapter(self._context(), self._proxies)
            )
            directory = client.ClientV2.get_directory(self._settings.directory, network)
            ca = client.ClientV2(directory, network)
            registration = messages.NewRegistration.from_data(
                email=self._settings.email or None,
                terms_of_service_agreed=True,
                external_account_binding=self._binding(network, directory),
            )
            try:
                ca.new_account(registration)
            except acme_errors.ConflictError as known:
                network.account = messages.RegistrationResource(body=registration, uri=known.location)
            self._client = ca
        return self._client

    def _binding(self, network: "_Network", directory: messages.Directory) -> dict[str, Any] | None:
        if network.key is None or not self._settings.binds_an_account:
            return None
        key = b64encode(external_key(self._settings)).decode()
        return messages.ExternalAccountBinding.from_data(
            network.key.public_key(), self._settings.eab_kid, key, directory
        )

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # requires a certificate with the right name
        trusted = self._trusted if self._settings.roots is None else TrustedRoots(self._settings.roots, ())
        for root in roots.load(trusted):
            with contextlib.suppress(ssl.SSLError):  # skip unreadable roots
                context.load_verify_locations(cadata=root)
        return context


def external_key(settings: Acme) -> bytes:
    """Return the key of the external account, read from its file if one is set.

    Raises:
        ConfigError: The file does not contain the key.
    """
    if settings.eab_key_file is None:
        return eab_key(settings.eab_key, "-acme-eab-key")
    text = files.read(settings.eab_key_file, "the file of -acme-eab-key-file").decode("ascii", "replace")
    conceal(text.strip(), str(settings.eab_key_file))
    return eab_key(text, f"the file {settings.eab_key_file} of -acme-eab-key-file")


def _signing(key: PrivateKey) -> tuple[JWK, JWASignature]:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return JWKEC(key=key), _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey):
        return JWKRSA(key=key), RS256
    raise ConfigError("the key of the ACME account has a type that CAs do not accept; use ECDSA P-256 or RSA")


@contextlib.contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Raise each error of the CA, its network, or the library's parsing as `OrderError`."""
    try:
        yield
    except (OrderError, ConfigError):
        raise
    except acme_errors.ValidationError as error:
        raise ChallengeError(f"{what}: {_words(error)}") from None
    except (acme_errors.Error, requests.RequestException) as error:
        raise OrderError(f"{what}: {_words(error)}") from None
    except Exception as error:  # noqa: BLE001  the library raises anything for invalid answers
        raise OrderError(f"{what}: the CA's answer cannot be understood ({_words(error)})") from None


def _words(error: Exception) -> str:
    return log.in_one_line(error)[:500]


class _Network(client.ClientNetwork):
    """The library's HTTP client, with limits."""

    def __init__(self, key: JWK, algorithm: JWASignature, adapter: HTTPAdapter) -> None:
        super().__init__(
            key, alg=algorithm, user_agent=f"derper/{version()} (acme-python)", timeout=int(ANSWER_SECONDS)
        )
        self.requests_left = MOST_REQUESTS
        self.session.max_redirects = MOST_REDIRECTS
        self.session.adapters.clear()
        self.session.trust_env = False
        self.session.mount("https://", adapter)

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401  the signature of the library
        """Post, and retry while the CA rejects the nonce, which it may do at any time (RFC 8555, 6.5)."""
        for _ in range(NONCE_TRIES - 1):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
                self._nonces.clear()
        return self._post_once(*args, **kwargs)

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        self.requests_left -= 1
        if self.requests_left < 0:
            raise OrderError(f"the CA wants more than {MOST_REQUESTS} requests for one order")
        response = super()._send_request(method, url, *args, **kwargs)
        if response.status_code in _BUSY:
            raise OrderError(f"the CA is busy: {_problem(response)}", _retry_after(response))
        return response


class _Adapter(HTTPAdapter):
    """Connections with our own roots and proxy; answers are limited in size and time."""

    def __init__(self, context: ssl.SSLContext, proxies: Proxies) -> None:
        self._context = context
        self._proxies = proxies
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  the signature of the library
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return super().proxy_manager_for(*args, ssl_context=self._context, **kwargs)

    def cert_verify(self, *_args: object) -> None:
        """No-op: the library would add its own roots to the context."""

    def build_connection_pool_key_attributes(self, request: Any, _verify: Any, cert: Any = None) -> Any:  # noqa: ANN401
        return super().build_connection_pool_key_attributes(request, True, cert)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        proxy = self._proxies.of(request.url or "")
        through = {"https": proxy} if proxy else {}
        response = super().send(request, *args, **(kwargs | {"stream": True, "proxies": through}))
        try:
            body = _read(response)
        except BaseException:
            response.close()
            raise
        response.raw.release_conn()
        response.raw = io.BytesIO(body)
        return response


def _read(response: requests.Response) -> bytes:
    deadline = time.monotonic() + BODY_SECONDS
    body = b""
    while piece := response.raw.read1(MOST_BYTES, decode_content=True):
        body += piece
        if len(body) > MOST_BYTES:
            raise OrderError(f"the CA answers with more than {MOST_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise OrderError(f"the CA's answer takes longer than {BODY_SECONDS:.0f} s")
    return body


def _problem(response: requests.Response) -> str:
    try:
        return str(response.json()["detail"])[:300]
    except (ValueError, LookupError, TypeError):
        return f"status {response.status_code}"


def _retry_after(response: requests.Response) -> timedelta | None:
    try:
        return timedelta(seconds=max(0, int(response.headers["Retry-After"])))
    except (KeyError, ValueError, OverflowError):
        return None
