"""One certificate, step by step: order, proofs, certificate. Runs on the loop; blocking calls use the worker."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from acme import challenges as known
from acme import crypto_util, messages
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from derper.credentials.pem import Host
from derper.host.worker import Blocking, T, Worker
from derper.server.certificates.acme.directory import Ca, ChallengeError, OrderError
from derper.server.certificates.acme.solvers import ChallengeSolver

CALL_SECONDS: Final = 120.0  # for one step of several requests
PROOF_SECONDS: Final = 120.0
ISSUE_SECONDS: Final = 120.0
_LOOKS: Final = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0)  # seconds between two polls of a proof; the last one repeats
_FETCH_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Issued:
    """The result of an order, unchecked."""

    key: ec.EllipticCurvePrivateKey
    chain: bytes  # PEM


class Orders:
    """Orders at one CA."""

    def __init__(self, ca: Ca, solvers: Sequence[ChallengeSolver], worker: Worker) -> None:
        self._ca = ca
        self._solvers = list(solvers)
        self._worker = worker

    async def obtain(self, host: Host, profile: str | None) -> Issued:
        """Return a new certificate for a host; try one solver after the other, and start with the last successful one.

        The profile is requested if the CA offers it.

        Raises:
            OrderError: No certificate was issued.
            ConfigError: A problem on our side prevents the order.
        """
        solvers = [solver for solver in self._solvers if solver.proves(host)]
        if not solvers:
            raise OrderError("there is no solver to prove it: port 80 is not served")
        refused: ChallengeError | None = None
        for solver in solvers:
            try:
                issued = await self._order(host, profile, solver)
            except ChallengeError as error:
                reason = f"{refused}; {error}" if refused else str(error)
                refused = ChallengeError(reason, error.retry_after)
            else:
                self._solvers.sort(key=lambda other: other is not solver)
                return issued
        raise refused or OrderError("no solver was tried")

    async def suggestion(self, chain: bytes) -> tuple[datetime | None, datetime]:
        """Return the renewal time that the CA suggests, if any, and when to ask again."""
        return await self._call(partial(self._ca.suggestion, chain))

    async def _order(self, host: Host, profile: str | None, solver: ChallengeSolver) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            offered = profile if profile in await self._call(self._ca.profiles) else None
            order = await self._call(partial(self._ca.begin, _request(host, key), offered))
            for authorization in order.authorizations:
                await self._prove(host, authorization, solver)
            order = await self._call(partial(self._ca.finalize, order))
            async with asyncio.timeout(ISSUE_SECONDS):
                while (chain := await self._call(partial(self._ca.fetch, order, _FETCH_SECONDS))) is None:
                    pass
        except TimeoutError:
            self._ca.forget()
            raise OrderError("the CA took too long") from None
        except ChallengeError:
            raise
        except OrderError:
            self._ca.forget()
            raise
        return Issued(key, chain)

    async def _prove(self, host: Host, authorization: messages.AuthorizationResource, solver: ChallengeSolver) -> None:
        if authorization.body.identifier.value.lower() != str(host):
            raise OrderError(f"the CA wants {authorization.body.identifier.value} to be proved")
        if authorization.body.status == messages.STATUS_VALID:
            return
        challenge = next((body for body in authorization.body.challenges if body.chall.typ == solver.kind), None)
        if challenge is None or not isinstance(challenge.chall, known.KeyAuthorizationChallenge):
            raise ChallengeError(f"the CA does not offer {solver.kind}")
        key = await self._call(lambda: self._ca.account_key)
        async with solver.present(host, challenge.chall, key):
            await self._call(partial(self._ca.answer, challenge))
            await self._wait_for_proof(authorization, solver)

    async def _wait_for_proof(self, authorization: messages.AuthorizationResource, solver: ChallengeSolver) -> None:
        async with asyncio.timeout(PROOF_SECONDS):
            looks = 0
            while True:
                await asyncio.sleep(_LOOKS[min(looks, len(_LOOKS) - 1)])
                looks += 1
                body = (await self._call(partial(self._ca.poll, authorization))).body
                if body.status == messages.STATUS_VALID:
                    return
                if body.status not in (messages.STATUS_PENDING, messages.STATUS_PROCESSING):
                    raise ChallengeError(f"{solver.kind}: {_why(body)}")

    async def _call(self, call: Blocking[T]) -> T:
        return await self._worker.run(call, CALL_SECONDS)


def _request(host: Host, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the certificate signing request, in PEM."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if isinstance(host, str):
        return crypto_util.make_csr(pem, domains=[host])
    return crypto_util.make_csr(pem, ipaddrs=[host])


def _why(body: messages.Authorization) -> str:
    problems = [str(challenge.error.detail) for challenge in body.challenges if challenge.error is not None]
    return ("; ".join(problems) or f"the authorization is {body.status}")[:500]
