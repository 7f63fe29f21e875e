"""Each counter of the data plane is part of a metric."""

from pathlib import Path

import pytest
from live import config_of, serving

from derper.metrics import exposition


@pytest.mark.parametrize("counters", ["counters", "stun_counters"])
async def test_every_counter_of_the_data_plane_changes_a_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counters: str
) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text('{"PerClientRateLimitBytesPerSec": 1000000, "PerClientRateBurstBytes": 1000000}')
    tls = ("-certmode=manual", "-hostname=127.0.0.1", "-certdir", str(tmp_path))
    async with serving(config_of(tmp_path, *tls, "-rate-config", str(rates))) as server:
        plane = server.parts.plane
        zeros = dict.fromkeys(getattr(plane, counters)(), 0)
        assert zeros

        def page(**counted: int) -> str:
            monkeypatch.setattr(plane, counters, lambda: zeros | counted)
            return exposition.text(server.parts.metrics.families())

        unchanged = page()
        assert [name for name in zeros if page(**{name: 1}) == unchanged] == []
        assert page() == unchanged, "a metric changes by itself, so the comparison above shows nothing"
