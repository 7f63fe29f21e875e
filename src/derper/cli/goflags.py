"""Go's `flag` package: parsing of a command line, its errors, and the layout of the usage text.

Generic: knows types of flags, and no program. A program declares `Flag` constants and reads `parsed[FLAG]`. Only
`parse_or_exit` writes (stderr) or exits, and only with Go's codes: 0 for help, 2 for an invalid command line.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Generic, TextIO, TypeVar, cast

from derper.errors import ConfigError
from derper.goquote import quote
from derper.govalues import (
    format_duration,
    format_float,
    parse_bool,
    parse_duration,
    parse_float,
    parse_int,
)

T = TypeVar("T")


class UsageError(ConfigError):
    """The command line is invalid; the message has Go's wording, `advice` contains complete lines with the remedy."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A type of flag: its name in the usage text, its parser and format, and the default that is not shown.

    `joined` combines the values of a repeated flag; without it the last value counts, as in Go.
    """

    name: str
    parse: Callable[[str], T]
    show: Callable[[T], str]
    zero: T
    joined: Callable[[T, T], T] | None = None


@dataclass(frozen=True, slots=True)
class Flag(Generic[T]):
    """One flag. In `usage`, a word in back quotes names the value, as in Go."""

    name: str
    default: T
    usage: str
    kind: Kind[T]


NANOSECONDS = 1_000_000_000

_STRING: Kind[str] = Kind("string", str, quote, "")
_BOOL: Kind[bool] = Kind("", parse_bool, lambda value: "true" if value else "false", zero=False)
_INT: Kind[int] = Kind("int", parse_int, str, 0)
_FLOAT: Kind[float] = Kind("float", parse_float, format_float, 0.0)
_DURATION: Kind[float] = Kind(
    "duration",
    lambda text: parse_duration(text) / NANOSECONDS,
    lambda seconds: format_duration(round(seconds * NANOSECONDS)),
    0.0,
)
_STRINGS: Kind[tuple[str, ...]] = Kind(
    "string",
    lambda text: (text,) if text else (),
    lambda texts: ", ".join(map(quote, texts)),
    (),
    joined=lambda before, now: before + now if now else (),
)


def string(name: str, default: str, usage: str) -> Flag[str]:
    """Return a flag that accepts any text."""
    return Flag(name, default, usage, _STRING)


def strings(name: str, usage: str) -> Flag[tuple[str, ...]]:
    """Return a flag that accepts any text and may be repeated; an empty value removes the ones before it."""
    return Flag(name, (), usage, _STRINGS)


def boolean(name: str, usage: str, *, default: bool = False) -> Flag[bool]:
    """Return a flag that is `-name` or `-name=false`, never followed by its value as a separate argument."""
    return Flag(name, default, usage, _BOOL)


def integer(name: str, default: int, usage: str) -> Flag[int]:
    """Return a flag that accepts a 64-bit integer."""
    return Flag(name, default, usage, _INT)


def number(name: str, default: float, usage: str) -> Flag[float]:
    """Return a flag that accepts a float, `+Inf` included."""
    return Flag(name, default, usage, _FLOAT)


def duration(name: str, default: float, usage: str) -> Flag[float]:
    """Return a flag that accepts a Go duration; its value is in seconds."""
    return Flag(name, default, usage, _DURATION)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed command line. `parsed[FLAG]` is the flag's value, given or default.

    `help_wanted`: the line contains `-h` or `-help`, and nothing after it was parsed. `rest`: the arguments after the
    flags.
    """

    values: Mapping[str, object]
    rest: tuple[str, ...] = ()
    help_wanted: bool = False

    def __getitem__(self, flag: Flag[T]) -> T:
        return cast("T", self.values.get(flag.name, flag.default))

    def given(self, flag: Flag[Any]) -> bool:
        """Return whether the line contains the flag, even with its default."""
        return flag.name in self.values

    def over(self, values: Mapping[str, object]) -> "Parsed":
        """Return the same line with other values for the flags that it does not contain."""
        return replace(self, values={**values, **self.values})


def parse(flags: Iterable[Flag[Any]], words: Sequence[str]) -> Parsed:
    """Parse the arguments after the program's name.

    The last value of a repeated flag counts, unless its kind joins them. Raises `UsageError` for an unknown flag, and
    for a missing or invalid value.
    """
    table = {flag.name: flag for flag in flags}
    values: dict[str, object] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {word}")
        flag = table.get(name)
        if flag is None and name in {"h", "help"}:
            return Parsed(values, tuple(rest), help_wanted=True)
        if flag is None:
            near = get_close_matches(name, table, n=1)
            raise UsageError(f"flag provided but not defined: -{name}", f"did you mean -{near[0]}?\n" if near else "")
        if not equals:
            text = _next_word(flag, rest)
        value = _value(flag, text)
        values[name] = flag.kind.joined(values[name], value) if flag.kind.joined and name in values else value
    return Parsed(values, tuple(rest))


def _next_word(flag: Flag[Any], rest: list[str]) -> str:
    if flag.kind is _BOOL:
        return "true"
    if not rest:
        raise UsageError(f"flag needs an argument: -{flag.name}", _usage_of(flag))
    return rest.pop(0)


def _value(flag: Flag[T], text: str) -> T:
    try:
        return flag.kind.parse(text)
    except ValueError as reason:
        wrong = "invalid boolean value {} for -{}: {}" if flag.kind is _BOOL else "invalid value {} for flag -{}: {}"
        raise UsageError(wrong.format(quote(text), flag.name, reason), _usage_of(flag)) from None


def usage(program: str, flags: Iterable[Flag[Any]]) -> str:
    """Return the usage text in Go's layout: flags by name, each with its value's name, its text and its default."""
    return "".join([f"Usage of {program}:\n", *map(_usage_of, sorted(flags, key=lambda flag: flag.name))])


def _usage_of(flag: Flag[Any]) -> str:
    named, text = flag.kind.name, flag.usage
    if text.count("`") > 1:
        before, named, after = text.split("`", 2)
        text = before + named + after
    head = f"  -{flag.name} {named}" if named else f"  -{flag.name}"
    # Go puts the text of a one-letter boolean flag on the flag's line, and the text of any other flag on the next line.
    gap = "\t" if len(head) <= len("  -x") else "\n    \t"
    shown = "" if flag.default == flag.kind.zero else f" (default {flag.kind.show(flag.default)})"
    return head + gap + text.replace("\n", "\n    \t") + shown + "\n"


def parse_or_exit(
    program: str, flags: Sequence[Flag[Any]], words: Sequence[str], stderr: TextIO | None = None, *, more: str = ""
) -> Parsed:
    """Parse as `parse` does; exit with 0 for help and with 2 for an invalid line.

    Help is the usage and `more`, on stderr. For an invalid line only the error and its remedy are written: the whole
    usage would hide them.
    """
    out = sys.stderr if stderr is None else stderr
    try:
        parsed = parse(flags, words)
    except UsageError as error:
        out.write(f"{error}\n{error.advice}'{program} -h' lists all flags\n")
        raise SystemExit(2) from None
    if parsed.help_wanted:
        out.write(usage(program, flags) + more)
        raise SystemExit(0)
    return parsed
