"""How the program speaks to its operator: one line a fact, on stderr, UTC.

On a terminal the lines are for people, elsewhere they are `key=value` pairs for a log collector, unless the operator
wants another form. What other libraries log takes the same way. Call `configure` first of all; everybody else uses
`structlog.get_logger()`.
Values come from peers too, so nothing in them can break a line; secrets have types that do not show them.
"""

import logging
import sys
from contextlib import suppress
from typing import Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from derper.config import LogFormat, Logs
from derper.errors import DerperError
from derper.redaction import redacted

USUAL: Final = Logs()
_HARMLESS: Final = frozenset({bool, float, int, type(None)})


class _Unfailing:
    """A stream whose reader may go away or whose disk may fill: what cannot be said is lost, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def configure(stream: TextIO | None = None, logs: Logs = USUAL) -> None:
    """Send all logging to `stream` (stderr when none is given); may be called again while the program runs."""
    out = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[logs.level.upper()]
    unfailing = cast("TextIO", _Unfailing(out))
    rendering = _rendering(logs.format, out)
    common: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _on_one_line,
    ]
    structlog.configure(
        processors=[*common, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(unfailing),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(unfailing)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def _rendering(form: LogFormat, out: TextIO) -> list[Processor]:
    if form is LogFormat.AUTO:
        form = LogFormat.TEXT if out.isatty() else LogFormat.LOGFMT
    renderer: Processor
    match form:
        case LogFormat.TEXT:
            renderer = structlog.dev.ConsoleRenderer(timestamp_key="time", colors=out.isatty())
        case LogFormat.JSON:
            renderer = structlog.processors.JSONRenderer(sort_keys=False)
        case _:
            order = ["time", "level", "event"]
            renderer = structlog.processors.LogfmtRenderer(key_order=order, bool_as_flag=False)
    # A console would show tracebacks by itself, with the values of variables, and so with keys.
    return [structlog.processors.format_exc_info, _redact_traceback, renderer]


def _redact_traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if "exception" in event:
        event["exception"] = redacted(event["exception"])
    return event


def _on_one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every value harmless: no control characters, no secrets."""
    for key, value in event.items():
        if type(value) not in _HARMLESS and key != "exc_info":
            event[key] = _harmless(str(value))
    return event


def _harmless(text: str) -> str:
    text = redacted(text)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def verbatim(line: str) -> None:
    """Write one line as it is, where the log goes: something that an operator is meant to copy."""
    structlog.get_config()["logger_factory"]().msg(line)


def in_one_line(error: BaseException) -> str:
    """An error as one sentence for an operator: no class names where there are words.

    An error of ours says all that there is to say; of others, the causes follow, without what has been said.
    """
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        words = _words(seen)
        if not any(words in part for part in parts):
            parts.append(words)
        seen = None if isinstance(seen, DerperError) else seen.__cause__
    return ": ".join(parts)


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}"
    return " ".join(str(error).split()) or type(error).__name__
