import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from derper import log, redaction
from derper.config import LogFormat, LogLevel, Logs
from derper.errors import ConfigError

PRIVATE = "privkey:805b0f945c4290b62c129167006cd5d9c8f103f0317f8573f89263f8c9abf56a"


class Memory(io.StringIO):
    def getvalue(self) -> str:
        """Return the log so far; a thread writes the lines."""
        assert log.flush(20.0)
        return super().getvalue()


class Terminal(Memory):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_known", {})  # other tests have read keys from files
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_an_event_is_one_line_of_key_value_pairs_with_a_utc_time() -> None:
    out = Memory()
    log.configure(out)
    structlog.get_logger().info("client gone", reason="it left", packets=3, mesh=False)
    line = r'time=\d{4}-\d\d-\d\dT[\d:.]+Z level=info event="client gone" reason="it left" packets=3 mesh=false\n'
    assert re.fullmatch(line, out.getvalue())


def test_on_a_terminal_lines_have_the_readable_format() -> None:
    out = Terminal()
    log.configure(out)
    structlog.get_logger().info("client gone", packets=3)
    assert re.match(r"\S*\d{4}-\d\d-\d\dT", out.getvalue())
    assert "client gone" in out.getvalue()
    assert "event=" not in out.getvalue()


def test_in_the_json_format_each_line_is_an_object() -> None:
    out = Terminal()
    log.configure(out, Logs(LogFormat.JSON))
    structlog.get_logger().info("client gone", reason='it "left"', packets=3)
    logging.getLogger("other").warning("odd")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first.items() >= {"level": "info", "event": "client gone", "reason": 'it "left"', "packets": 3}.items()
    assert second.items() >= {"level": "warning", "event": "odd"}.items()


def test_bytes_of_a_peer_neither_break_a_line_nor_control_the_terminal() -> None:
    out = Memory()
    log.configure(out)
    structlog.get_logger().info("login", app='x"\n\x1b[2J\r\N{RIGHT-TO-LEFT OVERRIDE} level=error')
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().removesuffix("\n").isprintable()
    assert r"app=\"" not in out.getvalue()


def test_a_private_key_is_never_written() -> None:
    out = Memory()
    log.configure(out)
    structlog.get_logger().error("bad file", text=f"<{PRIVATE}>")
    logging.getLogger("other").error("bad file: %s", PRIVATE)
    assert out.getvalue().count("privkey:(secret)") == 2
    assert PRIVATE not in out.getvalue()


def test_debug_lines_are_logged_only_at_level_debug() -> None:
    for debug in (False, True):
        out = Memory()
        log.configure(out, Logs(level=LogLevel.DEBUG if debug else LogLevel.INFO))
        structlog.get_logger().debug("detail")
        assert bool(out.getvalue()) is debug


def test_warnings_of_libraries_have_the_same_format_and_their_info_lines_are_dropped() -> None:
    out = Memory()
    log.configure(out)
    logging.getLogger("other").info("chatter")
    logging.getLogger("other").warning("it is %s", "late")
    assert re.fullmatch(r'time=\S+Z level=warning event="it is late"\n', out.getvalue())


def test_a_traceback_of_ours_is_one_line() -> None:
    out = Memory()
    log.configure(out)
    try:
        int("no number")
    except ValueError:
        structlog.get_logger().exception("a bug")
        logging.getLogger("other").exception("a bug")
    assert out.getvalue().count("\n") == 2
    assert out.getvalue().count("ValueError") >= 2


def test_values_for_operators_to_copy_are_not_quoted() -> None:
    out = Memory()
    log.configure(out)
    log.verbatim('{"Name":"custom"}')
    assert out.getvalue() == '{"Name":"custom"}\n'


def test_the_text_of_our_errors_is_the_message_alone() -> None:
    error = ConfigError("the file is bad;\nmend it")
    error.__cause__ = OSError(2, "No such file")
    assert log.in_one_line(error) == "the file is bad; mend it"


def test_the_text_of_other_errors_has_their_causes() -> None:
    error = RuntimeError("no reader")
    error.__cause__ = PermissionError(13, "Permission denied", "/key")
    error.__cause__.__cause__ = KeyError()
    assert log.in_one_line(error) == "no reader: Permission denied (/key): KeyError"
