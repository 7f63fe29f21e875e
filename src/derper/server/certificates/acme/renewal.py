"""The times of renewals and of retries after failed orders. No I/O, no clock, no random numbers."""

from datetime import datetime, timedelta

MONTH = timedelta(days=30)
FIRST_RETRY = timedelta(minutes=1)
LAST_RETRY = timedelta(minutes=30)
MIN_GAP = timedelta(hours=1)
"""Minimum time between two successful orders for a host, whatever the CA suggests."""


def margin(life: timedelta) -> timedelta:
    """Return how long before its end a certificate is renewed: 30 days, or a third of a lifetime below 90 days."""
    return min(MONTH, life / 3)


def due(begins: datetime, ends: datetime, spread: float, suggested: datetime | None = None) -> datetime:
    """Return the time of renewal.

    `spread` (0 to 1) brings the time forward by up to a thirtieth of the margin, so that a fleet does not renew at
    once. The CA's suggestion (RFC 9773) has priority, but it may be wrong. So the latest time is when half of the
    margin is left.
    """
    before = margin(ends - begins)
    if suggested is not None:
        return min(suggested, ends - before / 2)
    return ends - before - before / 30 * spread


def retry_after(failures: int, asked: timedelta | None = None) -> timedelta:
    """Return the delay after this number of failed orders in a row; a CA may ask for more, up to a day."""
    usual = min(FIRST_RETRY * (1 << min(failures - 1, 10)), LAST_RETRY)
    return usual if asked is None else max(usual, min(asked, timedelta(days=1)))
