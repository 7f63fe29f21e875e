"""When certificates are renewed, and when failed orders are retried."""

from datetime import UTC, datetime, timedelta

import pytest

from derper.server.certificates.acme.renewal import due, retry_after

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("life", "left"), [(365, 30), (90, 30), (45, 15), (6, 2), (1, 1 / 3)], ids=lambda days: f"{days:.2g}"
)
def test_a_certificate_is_due_a_month_before_its_end_or_with_a_third_of_a_short_life_left(
    life: int, left: float
) -> None:
    assert due(BEGIN, BEGIN + life * DAY, spread=0) == BEGIN + (life - left) * DAY


def test_renewals_of_many_servers_spread_over_a_day_and_are_never_late() -> None:
    ends = BEGIN + 90 * DAY
    assert due(BEGIN, ends, spread=1) == ends - 31 * DAY


def test_the_time_that_the_ca_suggests_has_precedence() -> None:
    assert due(BEGIN, BEGIN + 90 * DAY, 0.5, suggested=BEGIN + 10 * DAY) == BEGIN + 10 * DAY
    assert due(BEGIN, BEGIN + 90 * DAY, 0.5, suggested=BEGIN + 65 * DAY) == BEGIN + 65 * DAY


def test_a_certificate_is_renewed_in_time_if_the_ca_suggests_too_late_a_time() -> None:
    assert due(BEGIN, BEGIN + 90 * DAY, 0.5, suggested=BEGIN + 9_999 * DAY) == BEGIN + 75 * DAY


def test_the_delay_after_failed_orders_doubles_from_a_minute_to_half_an_hour() -> None:
    waits = [retry_after(failures) / timedelta(minutes=1) for failures in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert retry_after(10_000) == timedelta(minutes=30)


def test_a_busy_ca_may_set_a_longer_delay_up_to_a_day() -> None:
    assert retry_after(1, timedelta(hours=3)) == timedelta(hours=3)
    assert retry_after(1, timedelta(seconds=1)) == timedelta(minutes=1)
    assert retry_after(1, timedelta(days=999)) == timedelta(days=1)
