"""A running prober's pages, metrics and runs on demand, compared with the reference's prober on the same region."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic, sleep
from typing import Final

import pytest
from parts import program
from probed import SECONDS, ProbedRegion, Started, started, surroundings
from relays import HOST, free_port

from derper.prober.metrics import METRICS

ALL: Final = (
    "-interval=1s", "-tls-interval=1s", "-stun-interval=1s", "-mesh-interval=1s", "-bw-interval=1s",
    "-bw-probe-size-bytes=100000", "-qd-packets-per-second=20", "-spread=false",
)  # fmt: skip
BROWSER: Final = {
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
}
GOS_OWN: Final = re.compile(r"^(go_|goroutines|goamd64_|memstats_|version\{)")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Started, Started]]:
    """Our prober and the reference's, each with all probes enabled."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "debug.key").write_text("s3cret\n")
    with ProbedRegion(folder, "ours", "ours") as region, ExitStack() as stack:
        asyncio.run(region.meet())
        flags = region.flags("-mesh-psk-file", str(region.mesh_key), *ALL)
        env = {"TS_DEBUG_KEY_PATH": str(folder / "debug.key"), "TS_DEBUG_TRUSTED_CIDRS": "192.0.2.0/24"}
        roots = region.authority.file
        ours = stack.enter_context(started(*flags, "-listen", f"{HOST}:0", roots=roots, env=env))
        port = free_port()
        go = subprocess.Popen(
            [program("derpprobe"), *flags, "-listen", f"{HOST}:{port}"],
            stderr=subprocess.DEVNULL,
            text=True,
            env=surroundings(roots) | env,
        )
        stack.callback(go.wait)
        stack.callback(go.kill)
        theirs = Started(go, f"http://{HOST}:{port}")
        for prober in (ours, theirs):
            wait_for_all(prober)
        yield ours, theirs


def wait_for_all(prober: Started) -> None:
    """Wait until every probe has ended once, and a continuous one, which never ends, carries packets.

    The reference begins its continuous probes ten seconds apart.
    """
    deadline = monotonic() + SECONDS
    while True:
        try:
            samples = prober.samples()
        except OSError:
            samples = {}
        ended = [value for name, value in samples.items() if name.startswith("derpprobe_end_secs") and value > 0]
        delays = [value for name, value in samples.items() if "delays_seconds_count" in name]
        if len(ended) == 13 and any(delays):
            return
        assert monotonic() < deadline, (len(ended), delays)
        sleep(0.05)  # metrics have no notification, so poll


def kinds_of(samples: dict[str, float]) -> set[str]:
    """Return the names of samples; without the probe's name for continuous probes, as some may not have begun."""
    names = {name for name in samples if not GOS_OWN.match(name)}
    return {
        re.sub(r'(?<=derp_path=)"\w+"|(?<=name=)"derp/[^"]+"', "…", name)
        if "derp_qd" in name and not name.startswith("derpprobe_interval_secs")
        else name
        for name in names
    }


def test_every_metric_has_the_references_name_labels_and_type(both: tuple[Started, Started]) -> None:
    families, samples = [], []
    for prober in both:
        text = prober.get("/debug/varz")[2]
        families.append({tuple(line.split()[2:]) for line in text.splitlines() if line.startswith("# TYPE")})
        samples.append(kinds_of(prober.samples()))
    assert samples[0] - samples[1] == set()
    assert samples[1] - samples[0] == set()
    gos_own = {(name, kind) for name, kind in families[1] - families[0] if not GOS_OWN.match(name)}
    assert (families[0] - families[1], gos_own) == (set(), set())


def test_every_family_of_the_probes_has_a_help_line(both: tuple[Started, Started]) -> None:
    text = both[0].get("/debug/varz")[2]
    families = set(re.findall(r"^# TYPE (derpprobe_\S+)", text, re.MULTILINE))
    assert set(re.findall(r"^# HELP (derpprobe_\S+) \S", text, re.MULTILINE)) == families
    page = {metric.name for metric in METRICS}
    assert families == page - {"derpprobe_derp_bw_bytes_total"}  # a metric of probes with a TUN device
    for metric in METRICS:
        samples = "".join(re.findall(rf"^{metric.name}(?:_bucket)?\{{.*", text, re.MULTILINE))
        assert metric.name not in families or {*re.findall(r'(\w+)="', samples)} - {"le"} == {*metric.labels}


def test_metrics_have_a_probes_results(both: tuple[Started, Started]) -> None:
    ours = both[0]
    labels = 'class="tls",hostname="localhost",name="derp/test/900a/tls",region="test",region_id="900"'
    before = ours.samples()
    ours.wait_for(
        f'derpprobe_attempts_total{{{labels},status="ok"}}',
        before[f'derpprobe_attempts_total{{{labels},status="ok"}}'] + 2,
    )
    now = ours.samples()
    assert now[f"derpprobe_result{{{labels}}}"] == 1
    assert now[f"derpprobe_interval_secs{{{labels}}}"] == 1
    assert now[f'derpprobe_attempts_total{{{labels},status="fail"}}'] == 0
    assert 0 <= now[f"derpprobe_latency_millis{{{labels}}}"] < 1_000
    assert (
        now[f"derpprobe_end_secs{{{labels}}}"]
        >= now[f"derpprobe_start_secs{{{labels}}}"] - 1
        > before["process_start_unix_time"] - 2
    )
    assert (
        now[f'derpprobe_seconds_total{{{labels},status="ok"}}']
        > before[f'derpprobe_seconds_total{{{labels},status="ok"}}']
    )
    pair = 'hostname="localhost",name="derp/test/900a/900b/{}",region="test",region_id="900"'
    continuous = f'class="derp_qd",derp_path="mesh",{pair.format("qd")}'
    assert now[f"derpprobe_interval_secs{{{continuous}}}"] == -10
    assert now[f"derpprobe_end_secs{{{continuous}}}"] == -62135596800
    assert (now[f"derpprobe_result{{{continuous}}}"], now[f"derpprobe_in_flight{{{continuous}}}"]) == (0, 1)
    count = now[f"derpprobe_derp_qd_probe_delays_seconds_count{{{continuous}}}"]
    assert now[f'derpprobe_derp_qd_probe_delays_seconds_bucket{{{continuous},le="+Inf"}}'] == count > 0
    assert 0 < now[f"derpprobe_derp_qd_probe_delays_seconds_sum{{{continuous}}}"] < count
    carried = f'class="derp_bw",derp_path="mesh",{pair.format("bw")},tcp_in_tcp="false"'
    assert now[f"derpprobe_derp_bw_probe_size_bytes{{{carried}}}"] == 100_000
    assert now[f"derpprobe_derp_bw_transfer_time_seconds_total{{{carried}}}"] > 0


def test_debug_vars_has_no_metrics_of_the_probes(both: tuple[Started, Started]) -> None:
    (status, headers, text), (_, their_headers, their_text) = (prober.get("/debug/vars") for prober in both)
    assert status == 200
    assert headers["Content-Type"] == their_headers["Content-Type"]
    gos_own = re.compile(r"go_version|memstats|gauge_")
    assert json.loads(text).keys() == {name for name in json.loads(their_text) if not gos_own.match(name)}


def test_a_page_has_the_references_status_headers_and_content_type(both: tuple[Started, Started]) -> None:
    for path in ("/debug/", "/debug/varz", "/debug/probe-run?name=derp/test/900a/udp", "/debug/probe-run",
                 "/debug/probe-run?name=nobody", "/debug/probe-run?name=derp/test/900a/900b/qd", "/debug/nothing",
                 "/debug", "/healthz", "/debug/probe-all"):  # fmt: skip
        (status, headers, text), (their_status, their_headers, their_text) = (prober.get(path) for prober in both)
        assert status == their_status, path
        for name in ("Location", "Content-Security-Policy", *BROWSER):
            if path != "/healthz":
                assert headers.get(name) == their_headers.get(name), (path, name)
        if status != 307:
            kinds = [found["Content-Type"].partition(";")[0] for found in (headers, their_headers)]
            assert kinds[0] == kinds[1], path
        if status in (400, 404) or path == "/healthz":
            assert text.strip() == their_text.strip()


def test_healthz_returns_ok(both: tuple[Started, Started]) -> None:
    assert both[0].get("/healthz")[::2] == (200, "ok\n")


def test_a_probe_runs_on_demand_and_reports_in_text(both: tuple[Started, Started]) -> None:
    for prober in both:
        status, _, text = prober.get("/debug/probe-run?name=derp/test/900a/tls")
        assert status == 200
        assert re.fullmatch(
            r"Probe succeeded in [\d.]+(ms|µs)\nLast \d+ probes \(including this one\): success rate 100%, "
            r"median latency [\d.]+(ms|µs)\n",
            text,
        )


def test_a_probe_reports_in_json_the_fields_of_the_reference(both: tuple[Started, Started]) -> None:
    kinds = []
    for prober in both:
        status, headers, text = prober.get("/debug/probe-run?name=derp/test/900a/tls", Accept="application/json")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        told = json.loads(text)
        info = told["ProbeInfo"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", info["Start"])
        assert info["Interval"] == 1_000_000_000
        assert info["Status"] == "succeeded"
        assert told["PreviousSuccessRatio"] == 1
        assert 0 < told["PreviousMedianLatency"] < 1_000_000_000
        assert info["Latency"] == info["RecentLatencies"][-1]
        kinds.append(
            [{name: type(value) for name, value in members.items()} for members in (told, info)] + [info["Labels"]]
        )
    assert kinds[0] == kinds[1]


def test_all_probes_run_on_demand_except_excluded_ones(both: tuple[Started, Started]) -> None:
    asked = "/debug/probe-all?exclude=derp/test/900a/tls&exclude=derp/test/900b/tls"
    told = []
    for prober in both:
        status, _, text = prober.get(asked)
        assert status == 200
        told.append(json.loads(text)["Results"])
    assert told[0].keys() == told[1].keys()
    assert len(told[0]) == 11
    assert told[0]["derp/test/900a/udp"].keys() == told[1]["derp/test/900a/udp"].keys()


def test_the_debug_pages_need_the_same_access_as_the_relays(both: tuple[Started, Started]) -> None:
    for prober in both:
        for path in ("/debug/", "/debug/varz", "/debug/probe-run?name=derp/test/900a/tls", "/debug/probe-all"):
            status, _, text = prober.get(path, X_Forwarded_For="192.0.2.1")
            assert (status, text) == (403, "debug access denied\n")
            with_key = f"{path}{'&' if '?' in path else '?'}debugkey=s3cret"
            assert prober.get(with_key, X_Forwarded_For="192.0.2.1")[0] == 200


def test_the_status_page_shows_all_probes_to_all_and_runs_none_for_strangers(
    both: tuple[Started, Started],
) -> None:
    status, headers, text = both[0].get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert both[0].get("/anything/else")[0] == 200
    told = json.loads(both[0].get("/debug/probe-all")[2])["Results"]
    for name in ("derpmap-probe", "derp/test/900a/900b/qd", *told):
        assert f">{name}<" in text
    assert text.count("<svg") >= len(told)
    assert "Run Probe" in text
    assert re.search(r"p50 [\d.]+ ms, p90 [\d.]+ ms, p99 [\d.]+ ms, 0 dropped", text)
    assert "script" not in text
    assert re.findall(r"https?:|src=|url\(", text) == []
    assert headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert "Run Probe" not in both[0].get("/", X_Forwarded_For="192.0.2.1")[2]
