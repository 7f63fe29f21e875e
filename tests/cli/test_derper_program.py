"""The program as an operator sees it: a process with arguments, an exit code and output."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import derper.cli
from derper.cli.flags import DERPER_FLAGS
from derper.cli.tools import TOOLS

SOURCE = Path(derper.cli.__file__).parents[2]
LOG_LINE = re.compile(r'time=\S+Z level=error event="the server cannot run" reason="(?P<reason>.*)"')

# The program with the server's loop replaced: these tests cover the code before and after the loop.
WITH_LOOP = """
import signal, sys, types
app = types.ModuleType("derper.server.app")
def run(config, read_again):
    {loop}
app.run = run
sys.modules["derper.server.app"] = app
from derper.cli.derper import main
sys.exit(main(sys.argv[1:]))
"""


def environment(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(SOURCE)}


def run(home: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "derper", *words],
        env=environment(home) | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_with_loop(home: Path, loop: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITH_LOOP.format(loop=loop), *words],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def the_one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stdout == ""
    match = LOG_LINE.fullmatch(done.stderr.removesuffix("\n"))
    assert match, done.stderr
    return match["reason"]


@pytest.mark.parametrize("word", ["-h", "-help", "--help"])
def test_help_shows_every_flag_and_exits_0(tmp_path: Path, word: str) -> None:
    done = run(tmp_path, word)
    assert done.returncode == 0
    assert done.stdout == ""
    assert re.findall(r"^  -(\S+)", done.stderr, re.MULTILINE) == sorted(flag.name for flag in DERPER_FLAGS)


@pytest.mark.parametrize("word", ["-version", "--version=true"])
def test_version_is_one_line_and_exits_0(tmp_path: Path, word: str) -> None:
    done = run(tmp_path, word)
    assert done.returncode == 0
    assert re.fullmatch(r"derper \S+\n", done.stdout)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "first_line", "advice"),
    [
        (["-hostnam", "x"], "flag provided but not defined: -hostnam", "did you mean -hostname?"),
        (["-stun=maybe"], 'invalid boolean value "maybe" for -stun: parse error', "answer STUN requests"),
        (["-tcp-user-timeout", "15"], 'invalid value "15" for flag -tcp-user-timeout: parse error', "(default 15s)"),
        (["-c"], "flag needs an argument: -c", "file with this server's private key"),
    ],
)
def test_an_invalid_command_line_is_one_sentence_with_a_remedy_and_exits_2(
    tmp_path: Path, words: list[str], first_line: str, advice: str
) -> None:
    done = run(tmp_path, *words)
    first, *others = done.stderr.splitlines()
    assert (done.returncode, done.stdout, first, others[-1]) == (2, "", first_line, "'derper -h' lists all flags")
    assert advice in done.stderr
    assert len(others) < 6, "a screen of usage hides the sentence"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-a", "everywhere"], "':port'"),
        (["-certmode", "auto"], "-certmode"),
        (["-home", "page"], "-home"),
        (["-hostname", "192.0.2.1"], "-certmode=manual"),
        (["-certmode", "gcp"], "-acme-eab-kid"),
        (["-certmode", "manual", "-certdir", ""], "-certdir"),
        (["-mesh-with", "a/b/c"], "-mesh-with"),
    ],
)
def test_an_invalid_setting_is_one_sentence_and_exits_1(tmp_path: Path, words: list[str], named: str) -> None:
    assert named in the_one_sentence(run(tmp_path, "-c", str(tmp_path / "key"), *words))


def test_an_invalid_environment_is_one_sentence_and_exits_1(tmp_path: Path) -> None:
    assert "DERPER_SHARDS" in the_one_sentence(run(tmp_path, "-dev", DERPER_SHARDS="all"))


def test_the_result_of_the_servers_loop_is_the_exit_code(tmp_path: Path) -> None:
    assert run_with_loop(tmp_path, "return 3", "-dev").returncode == 3


@pytest.mark.parametrize(
    ("loop", "sentence"),
    [
        ("open('/nowhere/file')", "No such file or directory (/nowhere/file)"),
        ("from derper.errors import ConfigError; raise ConfigError('the port is taken')", "the port is taken"),
        ("from derper.errors import NetworkError; raise NetworkError('no route')", "no route"),
    ],
)
def test_a_server_that_fails_prints_one_sentence_and_exits_1(tmp_path: Path, loop: str, sentence: str) -> None:
    assert the_one_sentence(run_with_loop(tmp_path, loop, "-dev")) == sentence


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_servers_loop_handles_it_exits_0(tmp_path: Path, sent: signal.Signals) -> None:
    loop = "print('ready', flush=True); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", WITH_LOOP.format(loop=loop), "-dev"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")


def test_a_stray_word_is_ignored_with_a_line_even_if_it_is_a_tools_name(tmp_path: Path) -> None:
    done = run_with_loop(tmp_path, "return 0", "-dev", "keygen", "more")
    assert (done.returncode, done.stdout) == (0, "")
    assert 'level=warning event="arguments that are not flags are ignored' in done.stderr
    assert 'words="keygen more"' in done.stderr
    assert run_with_loop(tmp_path, "return 0", "-dev").stderr == ""


@pytest.mark.parametrize(
    ("words", "first_line", "advice"),
    [
        (("doktor", "derp.example.com"), 'unknown tool "doktor"', "did you mean 'doctor'?"),
        (("Doctor",), 'unknown tool "Doctor"', "did you mean 'doctor'?"),
        (("hostname", "derp.example.com"), 'unknown tool "hostname"', "did you mean '-hostname'?"),
        (("hostname=derp.example.com",), 'unknown tool "hostname=derp.example.com"', "did you mean '-hostname'?"),
        (("version",), 'unknown tool "version"', "did you mean '-version'?"),
        (("xyzzy", "-dev"), 'unknown tool "xyzzy"', ""),
        (("two\nlines",), r'unknown tool "two\nlines"', ""),
        (("", "-dev"), 'unknown tool ""', ""),
        (("-", "-dev"), 'unknown tool "-"', ""),
    ],
)
def test_a_first_word_that_is_neither_a_flag_nor_a_tool_starts_no_server_and_exits_2(
    tmp_path: Path, words: tuple[str, ...], first_line: str, advice: str
) -> None:
    done = run_with_loop(tmp_path, "raise AssertionError", *words)
    assert (done.returncode, done.stdout) == (2, "")
    first, *others = done.stderr.splitlines()
    assert (first, others[:-1]) == (first_line, [advice] if advice else [])
    assert others[-1] == "'derper -h' lists all flags and tools"


def test_a_tools_name_as_the_first_word_runs_the_tool(tmp_path: Path) -> None:
    done = run_with_loop(tmp_path, "raise AssertionError", "keygen")
    assert done.returncode == 0
    assert "PrivateKey" in done.stdout


def test_help_names_the_tools_and_each_has_its_own(tmp_path: Path) -> None:
    shown = run(tmp_path, "-h").stderr
    for name in TOOLS:
        assert f"\n  {name}\t" in shown
        told = run(tmp_path, name, "-h")
        assert told.returncode == 0
        assert f"derper {name}" in told.stdout + told.stderr
