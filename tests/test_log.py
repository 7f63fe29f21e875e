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
        """Return what was logged so far; the lines are written by a thread."""
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


def test_a_fact_is_one_line_of_key_value_pairs_with_a_utc_time() -> None:
    out = Memory()
    log.configure(out)
    structlog.get_logger().info("client gone", reason="it left", packets=3, mesh=False)
    line = r'time=\d{4}-\d\d-\d\dT[\d:.]+Z level=info event="client gone" reason="it left" packets=3 mesh=false\n'
    assert re.fullmatch(line, out.getvalue())


def test_on_a_terminal_lines_are_for_people() -> None:
    out = Terminal()
    log.configure(out)
    structlog.get_logger().info("client gone", packets=3)
    assert re.match(r"\S*\d{4}-\d\d-\d\dT", out.getvalue())
    assert "client gone" in out.getvalue()
    assert "event=" not in out.getvalue()


def test_collectors_that_want_json_get_an_object_a_line() -> None:
    out = Terminal()
    log.configure(out, Logs(LogFormat.JSON))
    structlog.get_logger().info("client gone", reason='it "left"', packets=3)
    logging.getLogger("other").warning("odd")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first.items() >= {"level": "info", "event": "client gone", "reason": 'it "left"', "packets": 3}.items()
    assert second.items() >= {"level": "warning", "event": "odd"}.items()


def test_nothing_that_a_peer_sends_breaks_a_line_or_speaks_to_the_terminal() -> None:
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


def test_debug_lines_come_only_when_asked_for() -> None:
    for debug in (False, True):
        out = Memory()
        log.configure(out, Logs(level=LogLevel.DEBUG if debug else LogLevel.INFO))
        structlog.get_logger().debug("detail")
        assert bool(out.getvalue()) is debug


def test_other_libraries_warnings_take_the_same_form_and_their_chatter_is_dropped() -> None:
    out = Memory()
    log.configure(out)
    logging.getLogger("other").info("chatter")
    logging.getLogger("other").warning("it is %s", "late")
    assert re.fullmatch(r'time=\S+Z level=warning event="it is late"\n', out.getvalue())


def test_a_traceback_of_ours_stays_on_its_line() -> None:
    out = Memory()
    log.configure(out)
    try:
        int("no number")
    except ValueError:
        structlog.get_logger().exception("a bug")
        logging.getLogger("other").exception("a bug")
    assert out.getvalue().count("\n") == 2
    assert out.getvalue().count("ValueError") >= 2


def test_what_an_operator_copies_is_written_as_it_is() -> None:
    out = Memory()
    log.configure(out)
    log.verbatim('{"Name":"custom"}')
    assert out.getvalue() == '{"Name":"custom"}\n'


def test_an_error_of_ours_is_its_own_sentence() -> None:
    error = ConfigError("the file is bad;\nmend it")
    error.__cause__ = OSError(2, "No such file")
    assert log.in_one_line(error) == "the file is bad; mend it"


def test_an_error_of_others_is_followed_by_its_causes() -> None:
    error = RuntimeError("no reader")
    error.__cause__ = PermissionError(13, "Permission denied", "/key")
    error.__cause__.__cause__ = KeyError()
    assert log.in_one_line(error) == "no reader: Permission denied (/key): KeyError"
