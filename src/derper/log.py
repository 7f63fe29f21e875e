"""The log: one line per fact, on stderr, in UTC.

On a terminal the lines are for people. Elsewhere they are `key=value` pairs for a log collector, unless the operator
sets another form. Log records of libraries take the same path. Call `configure` first; all other modules use
`structlog.get_logger()`.

Values may come from peers, so control characters are escaped and no value can break a line. Secrets have types that do
not show them. A call never waits for the stream: lines are queued (`logwriter`), and `flush` writes the queue at the
end.
"""

import logging
import sys
import threading
import warnings
from types import TracebackType
from typing import Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from derper.config import LogFormat, Logs
from derper.errors import DerperError
from derper.logwriter import LogWriter
from derper.redaction import redacted

USUAL: Final = Logs()
_HARMLESS: Final = frozenset({bool, float, int, type(None)})


FLUSH_SECONDS: Final = 1.0
"""How long the end of the program waits for a blocked log."""


class _Queued:
    """A stream whose lines go through the writer's queue: writing never blocks and never raises."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        _writer.write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        """No-op: the writer's thread flushes."""


class _LineLogger:
    """The logger that structlog writes to.

    structlog's own has a lock; a log line from a finalizer would deadlock on it.
    """

    def __init__(self, stream: _Queued) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        self._stream.write(f"{line}\n")

    debug = info = warning = error = critical = msg


class _Handler(logging.StreamHandler[TextIO]):
    """Writes the records of libraries; a record that cannot be formatted is one line instead of a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  a name of the library
        structlog.get_logger().error("a library's log record cannot be formatted", logger=record.name)


def configure(stream: TextIO | None = None, logs: Logs = USUAL) -> None:
    """Send all log lines to `stream` (default: stderr); may be called again while the program runs."""
    out = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[logs.level.upper()]
    queued = _Queued(out)
    rendering = _rendering(logs.format, out)
    common: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _on_one_line,
    ]
    _processors[:] = [*common, *rendering]
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _LineLogger(queued),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(cast("TextIO", queued))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def flush(seconds: float = FLUSH_SECONDS) -> bool:
    """Wait until the queued lines are written, at most `seconds`; return whether they are."""
    return _writer.flush(seconds)


def dropped() -> int:
    """Return the number of dropped lines: the log was not read, or its stream failed."""
    return _writer.dropped


def log_uncaught_errors() -> None:
    """Log uncaught exceptions and warnings, which Python would print on standard error."""
    sys.excepthook = _last_error
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    warnings.showwarning = _warned


def _last_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _uncaught(kind, error, trace)
    flush()


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit):
        info = (kind, error or kind(), trace)
        structlog.get_logger().error("this is a bug: an uncaught exception", exc_info=info)


def _warned(  # noqa: PLR0913, PLR0917  the signature of Python's hook
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del file, line  # part of the signature
    structlog.get_logger().warning(str(message), category=category.__name__, place=f"{filename}:{lineno}")


def _report(count: int) -> str:
    """Return the line that reports dropped lines, in the configured form."""
    event: EventDict = {"event": "log lines dropped: standard error was read too slowly, or could not be written"}
    event["dropped"] = count
    rendered: object = event
    for processor in _processors:
        rendered = processor(None, "error", cast("EventDict", rendered))
    return f"{rendered}\n"


_processors: Final[list[Processor]] = []
_writer: Final = LogWriter(_report)


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
    # structlog's console would show tracebacks with the values of variables, which include keys.
    return [structlog.processors.format_exc_info, _redact_traceback, renderer]


def _redact_traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if "exception" in event:
        event["exception"] = redacted(event["exception"])
    return event


def _on_one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters in all values, and remove secrets."""
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
    """Write one line unchanged to the log: text for an operator to copy."""
    structlog.get_config()["logger_factory"]().msg(line)


def in_one_line(error: BaseException) -> str:
    """Return an error as one sentence for an operator: no class names if there is a message.

    Our own errors are complete. For others, the causes follow, without repeated text.
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
