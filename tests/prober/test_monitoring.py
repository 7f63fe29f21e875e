"""The rules and the dashboard in packaging/monitoring, against a real Prometheus that scrapes our relay and prober."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from math import isnan
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from probed import SECONDS, ProbedRegion, started
from relays import HOST, free_port

MONITORING: Final = Path(__file__).parents[2] / "packaging" / "monitoring"
DASHBOARD: Final = json.loads((MONITORING / "derper.dashboard.json").read_text())
QUIET: Final = {"Failed runs, of all": 0.0}
"""Panels that are zero in a healthy region; all others only need a value."""


def panels() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5s")


class Prometheus:
    """A running Prometheus and its answers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:  # noqa: ANN401  whatever JSON it answers with
        host, _, port = self.url.rpartition("/")[2].partition(":")
        with closing(HTTPConnection(host, int(port), timeout=SECONDS)) as connection:
            connection.request("GET", f"/api/v1/{path}?{urlencode(parameters)}")
            told = json.loads(connection.getresponse().read())
        assert told["status"] == "success"
        return told["data"]

    def values(self, expression: str) -> list[float]:
        """Return an expression's values without NaN."""
        values = [float(row["value"][1]) for row in self.ask("query", query=expression)["result"]]
        return [value for value in values if not isnan(value)]

    def wait_for(self, expression: str) -> list[float]:
        """Wait until an expression has values; return them."""
        deadline = monotonic() + SECONDS
        while True:
            try:
                if values := self.values(expression):
                    return values
            except (OSError, ValueError):  # it does not listen yet, or is not ready
                pass
            assert monotonic() < deadline, expression
            sleep(0.2)  # scrapes have no notification, so poll


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a prober and its relay twice a second."""
    folder, port = tmp_path_factory.mktemp("monitoring"), free_port()
    flags = ("-interval=1s", "-tls-interval=1s", "-stun-interval=1s", "-mesh-interval=1s", "-bw-interval=1s",
             "-bw-probe-size-bytes=100000", "-qd-packets-per-second=20", "-spread=false",
             "-listen", f"{HOST}:0")  # fmt: skip
    with ProbedRegion(folder, "ours") as region:
        words = region.flags("-mesh-psk-file", str(region.mesh_key), *flags)
        with started(*words, roots=region.authority.file) as prober:
            jobs = {"derpprobe": prober.url, "derper": f"https://{HOST}:{region.ports[0]}"}
            config = {
                "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
                "rule_files": [str(MONITORING / "derper.rules.yml")],
                "scrape_configs": [
                    {
                        "job_name": job,
                        "metrics_path": "/debug/varz",
                        "scheme": url.partition(":")[0],
                        "static_configs": [{"targets": [url.rpartition("/")[2]]}],
                        "tls_config": {"ca_file": str(region.authority.file), "server_name": "localhost"},
                    }
                    for job, url in jobs.items()
                ],
            }
            (folder / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
            process = subprocess.Popen(
                ["prometheus", "--config.file=prometheus.json", "--storage.tsdb.path=data",
                 f"--web.listen-address={HOST}:{port}", "--log.level=error"],
                cwd=folder, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                yield Prometheus(f"http://{HOST}:{port}")
            finally:
                process.terminate()
                process.wait(SECONDS)


def test_prometheus_accepts_the_configuration_and_the_rules_pass_their_tests() -> None:
    for command in (("check", "config", "prometheus.yml"), ("check", "rules", "derper.rules.yml"),
                    ("test", "rules", "derper.rules.test.yml")):  # fmt: skip
        done = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_both_programs_are_scraped_completely(prometheus: Prometheus) -> None:
    for job in ("derper", "derpprobe"):
        assert prometheus.wait_for(f'up{{job="{job}"}} == 1') == [1.0]
        assert prometheus.wait_for(f'scrape_samples_scraped{{job="{job}"}}')[0] > 50


@pytest.mark.parametrize(("title", "expression"), list(panels()), ids=lambda text: text[:40])
def test_every_panel_of_the_dashboard_has_values(prometheus: Prometheus, title: str, expression: str) -> None:
    values = prometheus.wait_for(expression)
    if title in QUIET:
        assert set(values) == {QUIET[title]}


def test_no_alert_fires_in_a_healthy_region(prometheus: Prometheus) -> None:
    prometheus.wait_for('derpprobe_result{class="tls"} == 1')
    groups = prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(re.findall(r"- alert:", (MONITORING / "derper.rules.yml").read_text()))
    assert {rule["name"]: rule["state"] for rule in rules if rule["state"] == "firing"} == {}
    assert {rule.get("lastError", "") for rule in rules} == {""}
