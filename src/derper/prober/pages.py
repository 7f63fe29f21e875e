"""The prober's pages: the status page, `/healthz`, and the debug pages (docs/protocol/prober.md).

The status page shows the map and the results and is public. The debug pages can start probes and have the relay's
access rules.
"""

import asyncio
import html
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from aiohttp import web

from derper._version import version
from derper.errors import ConfigError
from derper.metrics import exposition, expvar, process
from derper.prober import metrics, status
from derper.prober.config import ProberConfig
from derper.prober.probe import CONTINUOUS_SECONDS, Probe
from derper.prober.schedule import Schedule
from derper.prober.verdict import latency
from derper.web import headers, serving
from derper.web.access import may_see

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.Response]]

_STATUS_HEADERS: Final = headers.PUBLIC | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_NO_SNIFFING: Final = {"X-Content-Type-Options": "nosniff"}
_FAILED_DEPENDENCY: Final = 424
_JSON: Final = "application/json"
_NANOSECONDS: Final = 1_000_000_000


class Pages:
    """The pages of one prober."""

    def __init__(self, config: ProberConfig, schedule: Schedule) -> None:
        self._config = config
        self._schedule = schedule

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Serve the pages; yield the address. Raises `ConfigError` if it cannot be bound."""
        runner = serving.runner(self._application(), access_log=None)
        await runner.setup()
        try:
            host = None if self._config.listen.host is None else str(self._config.listen.host)
            try:
                await web.TCPSite(runner, host, self._config.listen.port).start()
            except OSError as error:
                raise ConfigError(
                    f"-listen: cannot listen on {self._config.listen}: {error.strerror}; give another address or port"
                ) from error
            where, port = runner.addresses[0][:2]
            yield f"[{where}]:{port}" if ":" in where else f"{where}:{port}"
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application()
        app.on_response_prepare.append(_drop_server_header)
        app.router.add_route("*", "/healthz", _healthz)
        app.router.add_route("*", "/debug", _redirect_to_index)
        app.router.add_route("*", "/debug/", self._guarded(self._index))
        for name, _, page in self._debug_pages():
            app.router.add_route("*", f"/debug/{name}", self._guarded(page))
        app.router.add_route("*", "/debug/{anything:.*}", self._guarded(_nothing))
        app.router.add_route("*", "/{anything:.*}", self._status)
        return app

    def _debug_pages(self) -> list[tuple[str, str, Handler]]:
        return [
            ("vars", "Metrics (JSON)", self._vars),
            ("varz", "Metrics (Prometheus)", self._varz),
            ("probe-run", "Run a probe", self._probe_run),
            ("probe-all", "Run all configured probes", self._probe_all),
        ]

    def _guarded(self, page: Handler) -> Handler:
        async def show(request: web.Request) -> web.Response:
            if await may_see(request, self._config.debug):
                return await page(request)
            return web.Response(status=403, text="debug access denied\n", headers=_NO_SNIFFING)

        return show

    async def _status(self, request: web.Request) -> web.Response:
        page = status.page(
            self._schedule.probes,
            datetime.now(UTC),
            may_run=await may_see(request, self._config.debug),
            uptime=_uptime(),
        )
        return web.Response(text=page, content_type="text/html", charset="utf-8", headers=_STATUS_HEADERS)

    async def _index(self, _request: web.Request) -> web.Response:
        facts = {"Uptime": _uptime(), "Version": version(), "Machine": socket.gethostname()}
        items = [f"<li><b>{name}:</b> {html.escape(value)}</li>" for name, value in facts.items()]
        items += [
            f'<li><a href="/debug/{name}">/debug/{name}</a> ({title})</li>' for name, title, _ in self._debug_pages()
        ]
        page = f"<!DOCTYPE html><html><body><h1>derpprobe debug</h1><ul>{''.join(items)}</ul></body></html>\n"
        return web.Response(text=page, content_type="text/html", charset="utf-8", headers=headers.PUBLIC)

    async def _varz(self, _request: web.Request) -> web.Response:
        process_families = await asyncio.to_thread(lambda: [*process.program_families(), *process.library_families()])
        text = exposition.text([*metrics.families(self._schedule.probes), *process_families])
        return web.Response(text=text, headers=headers.DEBUG)

    async def _vars(self, _request: web.Request) -> web.Response:
        process_families = await asyncio.to_thread(lambda: [*process.program_families()])
        members = {"cmdline": process.command_line(), **expvar.variables(process_families)}
        return web.Response(text=f"{json.dumps(members, indent=1)}\n", content_type=_JSON, headers=headers.DEBUG)

    async def _probe_run(self, request: web.Request) -> web.Response:
        name = request.query.get("name", "")
        if not name:
            return _text(400, "missing name parameter\n")
        probe = self._schedule.find(name)
        if probe is None or probe.interval is None:
            return _text(404, f'unknown probe "{name}"\n')
        result = await _run_now(probe)
        last = probe.record.last
        good = last is not None and last.ok
        code = 200 if good else _FAILED_DEPENDENCY
        if request.headers.get("Accept", "").strip() == _JSON:
            body = f"{json.dumps(result, separators=(',', ':'))}"
            return web.Response(status=code, body=body.encode(), headers=headers.DEBUG | {"Content-Type": _JSON})
        record = probe.record
        how = f"succeeded in {latency(last.seconds)}" if last and last.ok else f"failed: {last.error if last else ''}"
        return _text(
            code,
            f"Probe {how}\nLast {len(record.recent)} probes (including this one): success rate "
            f"{round(record.success_ratio * 100)}%, median latency {latency(record.median_latency)}\n",
        )

    async def _probe_all(self, request: web.Request) -> web.Response:
        excluded = set(request.query.getall("exclude", []))
        probes = [probe for probe in self._schedule.probes if probe.interval is not None and probe.name not in excluded]
        results = await asyncio.gather(*map(_run_now, probes))
        good = all(probe.record.last and probe.record.last.ok for probe in probes)
        body = json.dumps(
            {"Results": {probe.name: result for probe, result in zip(probes, results, strict=True)}},
            separators=(",", ":"),
        )
        answer = headers.DEBUG | {"Content-Type": _JSON}
        return web.Response(status=200 if good else _FAILED_DEPENDENCY, body=body.encode(), headers=answer)


async def _run_now(probe: Probe) -> dict[str, Any]:
    """Run a probe; return its record with the new run, and its state before."""
    ratio, median = probe.record.success_ratio, probe.record.median_latency
    # A cancelled request must not leave an incomplete run on the record.
    await asyncio.shield(asyncio.create_task(probe.run()))
    return {
        "ProbeInfo": _info(probe),
        "PreviousSuccessRatio": int(ratio) if ratio.is_integer() else ratio,
        "PreviousMedianLatency": round(median * _NANOSECONDS),
    }


def _info(probe: Probe) -> dict[str, Any]:
    record, last = probe.record, probe.record.last
    return {
        "Name": probe.name,
        "Class": probe.kind,
        "Interval": round((CONTINUOUS_SECONDS if probe.interval is None else probe.interval) * _NANOSECONDS),
        "Labels": probe.all_labels,
        "Start": _rfc3339(last.start if last else 0),
        "End": _rfc3339(last.end if last else 0),
        "Latency": round(last.seconds * _NANOSECONDS) if last and last.ok else 0,
        "Status": probe.status,
        "Error": last.error if last else "",
        "RecentResults": list(record.recent),
        "RecentLatencies": [round(seconds * _NANOSECONDS) for seconds in record.latencies],
    }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _text(code: int, text: str) -> web.Response:
    return web.Response(status=code, text=text, headers=headers.DEBUG)


def _uptime() -> str:
    return str(timedelta(seconds=int(process.uptime())))


async def _healthz(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n", headers=_NO_SNIFFING)


async def _redirect_to_index(request: web.Request) -> web.Response:
    return web.Response(status=307, headers={"Location": str(request.rel_url.with_path("/debug/", keep_query=True))})


async def _nothing(_request: web.Request) -> web.Response:
    return web.Response(status=404, text="404 page not found\n", headers=_NO_SNIFFING)


async def _drop_server_header(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
