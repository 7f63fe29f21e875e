import contextlib
import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derper.cli.goflags import Flag, UsageError, boolean, duration, integer, number, parse, parse_or_exit, string, usage

ADDRESS = string("a", ":443", "address `place` to listen on")
QUIET = boolean("q", "say less")
STUN = boolean("stun", "answer STUN", default=True)
COUNT = integer("count", -7, "how many\nof them")
LIMIT = number("limit", math.inf, "a limit")
WAIT = duration("wait", 600.0, "how long")
EMPTY = string("empty", "", "nothing")
FLAGS: tuple[Flag[Any], ...] = (ADDRESS, QUIET, STUN, COUNT, LIMIT, WAIT, EMPTY)

USAGE = """\
Usage of prog:
  -a place
    \taddress place to listen on (default ":443")
  -count int
    \thow many
    \tof them (default -7)
  -empty string
    \tnothing
  -limit float
    \ta limit (default +Inf)
  -q\tsay less
  -stun
    \tanswer STUN (default true)
  -wait duration
    \thow long (default 10m0s)
"""


def usage_of(name: str) -> str:
    """Return the lines of one flag in the usage text."""
    lines = USAGE.splitlines(keepends=True)
    start = next(at for at, line in enumerate(lines) if line.split()[0] == f"-{name}")
    end = next((at for at in range(start + 1, len(lines)) if lines[at].startswith("  -")), len(lines))
    return "".join(lines[start:end])


@pytest.mark.parametrize("words", [["-a", ":1"], ["-a=:1"], ["--a", ":1"], ["--a=:1"], ["-a", ":2", "-a=:1"]])
def test_a_value_has_four_forms_and_the_last_one_counts(words: list[str]) -> None:
    assert parse(FLAGS, words)[ADDRESS] == ":1"


@pytest.mark.parametrize(
    ("words", "value"),
    [(["-q"], True), (["--q"], True), (["-q=false"], False), (["-q=T"], True), (["-q", "false"], True)],
)
def test_a_boolean_never_takes_the_next_word(words: list[str], value: bool) -> None:  # noqa: FBT001  (an expectation)
    line = parse(FLAGS, words)
    assert line[QUIET] is value
    assert line.rest == tuple(words[1:])


def test_values_have_their_types() -> None:
    line = parse(FLAGS, ["-count=0x10", "-limit", "2.5", "-wait", "1m30s", "-empty", "-q"])
    assert (line[COUNT], line[LIMIT], line[WAIT], line[EMPTY], line[QUIET]) == (16, 2.5, 90.0, "-q", False)


def test_a_flag_that_is_not_given_has_its_default() -> None:
    line = parse(FLAGS, ["-count", "-7"])
    assert [line[flag] for flag in FLAGS] == [":443", False, True, -7, math.inf, 600.0, ""]
    assert line.given(COUNT)
    assert not line.given(WAIT)


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        (["-q", "word", "-a", ":1"], ("word", "-a", ":1")),
        (["-q", "--", "-a"], ("-a",)),
        (["-q", "-", "-a"], ("-", "-a")),
        (["", "-a"], ("", "-a")),
    ],
)
def test_parsing_ends_at_the_first_word_that_is_no_flag(words: list[str], rest: tuple[str, ...]) -> None:
    assert parse(FLAGS, words).rest == rest


@pytest.mark.parametrize(
    ("words", "message", "advice"),
    [
        (["-nope"], "flag provided but not defined: -nope", ""),
        (["-cuont=1"], "flag provided but not defined: -cuont", "did you mean -count?\n"),
        (["--nope=1"], "flag provided but not defined: -nope", ""),
        (["-a"], "flag needs an argument: -a", usage_of("a")),
        (["---a"], "bad flag syntax: ---a", ""),
        (["-=1"], "bad flag syntax: -=1", ""),
        (["--=1"], "bad flag syntax: --=1", ""),
        (["-q=maybe"], 'invalid boolean value "maybe" for -q: parse error', usage_of("q")),
        (["-q="], 'invalid boolean value "" for -q: parse error', usage_of("q")),
        (["-count", "many"], 'invalid value "many" for flag -count: parse error', usage_of("count")),
        (
            ["-count=9223372036854775808"],
            'invalid value "9223372036854775808" for flag -count: value out of range',
            usage_of("count"),
        ),
        (["-wait=3"], 'invalid value "3" for flag -wait: parse error', usage_of("wait")),
        (["-limit=1e999"], 'invalid value "1e999" for flag -limit: value out of range', usage_of("limit")),
    ],
)
def test_an_invalid_line_has_gos_error_a_remedy_and_exit_code_2(words: list[str], message: str, advice: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(FLAGS, words)
    assert str(error.value) == message
    stderr = io.StringIO()
    with pytest.raises(SystemExit) as stop:
        parse_or_exit("prog", FLAGS, words, stderr)
    assert stop.value.code == 2
    assert stderr.getvalue() == f"{message}\n{advice}'prog -h' lists all flags\n"


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["-q", "-help"], ["-h=1"], ["-h", "-nope"]])
def test_help_is_the_usage_and_exit_code_0(words: list[str]) -> None:
    stderr = io.StringIO()
    with pytest.raises(SystemExit) as stop:
        parse_or_exit("prog", FLAGS, words, stderr)
    assert stop.value.code == 0
    assert stderr.getvalue() == USAGE


def test_help_is_shown_only_if_no_earlier_flag_is_invalid() -> None:
    with pytest.raises(UsageError):
        parse(FLAGS, ["-nope", "-h"])


def test_a_program_may_have_a_flag_named_h() -> None:
    own = boolean("h", "its own")
    assert parse((own,), ["-h"])[own]


def test_usage_has_the_layout_of_go() -> None:
    assert usage("prog", FLAGS) == USAGE


@given(st.lists(st.text("-=aqcountwaitlimit019.") | st.text()))
def test_garbage_is_either_parsed_or_rejected(words: list[str]) -> None:
    with contextlib.suppress(UsageError):
        assert len(parse(FLAGS, words).rest) <= len(words)
