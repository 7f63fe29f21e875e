import math
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from derper.goquote import quote
from derper.govalues import (
    INT_MAX,
    INT_MIN,
    format_duration,
    format_float,
    parse_bool,
    parse_duration,
    parse_float,
    parse_int,
)

NEAR_VALUES = st.text("0123456789.+-_xXoObBeEpPnuµμmshifaNtTrR")


def reason_against(parse: Callable[[str], object], text: str) -> str | None:
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return None


@given(st.integers(INT_MIN, INT_MAX))
@example(0)
@example(INT_MIN)
@example(INT_MAX)
def test_every_duration_is_read_back_unchanged(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@given(st.integers(INT_MIN, INT_MAX), st.sampled_from(["{}", "{:#x}", "{:#o}", "{:#b}", "{:_}"]))
def test_every_integer_is_read_in_every_form(value: int, form: str) -> None:
    assert parse_int(form.format(value)) == value


@given(st.floats())
def test_every_float_is_read_back_unchanged(value: float) -> None:
    read = parse_float(format_float(value))
    assert read == value or (math.isnan(read) and math.isnan(value))


@given(st.text() | NEAR_VALUES)
def test_garbage_is_rejected_with_one_of_two_reasons(text: str) -> None:
    for parse in (parse_bool, parse_int, parse_float, parse_duration):
        assert reason_against(parse, text) in {None, "parse error", "value out of range"}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("300ms", 300_000_000),
        ("1.5h", 5_400_000_000_000),
        ("2h45m", 9_900_000_000_000),
        ("-1.5s", -1_500_000_000),
        ("+5s", 5_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("1us", 1_000),
        ("1\N{MICRO SIGN}s", 1_000),
        ("1\N{GREEK SMALL LETTER MU}s", 1_000),
        ("14ns", 14),
        ("3ms2s1h", 3_602_003_000_000),
        ("0.3333333333333333333h", 1_200_000_000_000),
        ("0.830103483285477580700h", 2_988_372_539_827),
        ("9223372036854775807ns", INT_MAX),
        ("-9223372036854775808ns", INT_MIN),
    ],
)
def test_durations_are_read_as_by_go(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "3", "-", "s", ".", ".s", "1..s", "--1s", "1e3s", " 1s", "1s ", "1 s", "1d", "1S", "1_0s", "3000000h"]
)
def test_durations_that_go_rejects_are_a_parse_error(text: str) -> None:
    assert reason_against(parse_duration, text) == "parse error"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1\N{MICRO SIGN}s"),
        (2_200_000, "2.2ms"),
        (15_000_000_000, "15s"),
        (600_000_000_000, "10m0s"),
        (5_400_000_000_000, "1h30m0s"),
        (-3_600_000_000_001, "-1h0m0.000000001s"),
    ],
)
def test_durations_are_written_as_by_go(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("017", 15), ("0x_1F", 31), ("0_7", 7), ("-0b101", -5), ("+1_000", 1000), ("0O17", 15), ("00", 0)],
)
def test_integers_are_read_as_by_go(text: str, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize("text", ["", "08", "1__0", "_1", "1_", "0x", "1.0", " 1", "1e3", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_integers_that_go_rejects_are_a_parse_error(text: str) -> None:
    assert reason_against(parse_int, text) == "parse error"


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809", "0xFFFFFFFFFFFFFFFF"])
def test_integers_beyond_64_bits_are_out_of_range(text: str) -> None:
    assert reason_against(parse_int, text) == "value out of range"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("+Inf", math.inf),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0x1.8p1", 3.0),
        ("1_000.5", 1000.5),
    ],
)
def test_floats_are_read_as_by_go(text: str, value: float) -> None:
    assert parse_float(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "parse error"),
        ("1__0", "parse error"),
        ("0x1", "parse error"),
        ("+nan", "parse error"),
        (" 1", "parse error"),
        ("1e999", "value out of range"),
        ("-0x1p9999", "value out of range"),
    ],
)
def test_floats_that_go_rejects_have_its_reason(text: str, reason: str) -> None:
    assert reason_against(parse_float, text) == reason


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_true_has_six_spellings(text: str) -> None:
    assert parse_bool(text)


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "FALSE", "False"])
def test_false_has_six_spellings(text: str) -> None:
    assert not parse_bool(text)


@pytest.mark.parametrize("text", ["", "yes", "no", "on", "tRUE", "2", " true"])
def test_other_words_are_neither_true_nor_false(text: str) -> None:
    assert reason_against(parse_bool, text) == "parse error"


@given(st.text())
@example('\udcff\t"\\\N{ZERO WIDTH SPACE}\U000e0001')
def test_a_quoted_text_is_one_printable_line(text: str) -> None:
    assert quote(text).isprintable()


def test_quoting_escapes_as_go_does() -> None:
    assert quote('a"\\\n\x01\udcff\N{ZERO WIDTH SPACE}\U000e0001é') == r'"a\"\\\n\x01\xff\u200b\U000e0001é"'
