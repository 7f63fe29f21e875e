"""The settings file: its entries, their errors, and the precedence of the command line."""

import re
from pathlib import Path

import pytest

from derper.cli import flags
from derper.cli.flags import DERPER_FLAGS
from derper.cli.goflags import parse
from derper.cli.settingsfile import read
from derper.errors import ConfigError


def values(tmp_path: Path, text: str) -> dict[str, object]:
    file = tmp_path / "derper.toml"
    file.write_text(text)
    return read(file, DERPER_FLAGS)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        values(tmp_path, text)
    return str(caught.value)


def test_every_flag_can_be_set_in_the_file_as_on_the_command_line(tmp_path: Path) -> None:
    for flag in DERPER_FLAGS:
        shown = flag.kind.show(flag.default) if not isinstance(flag.default, str) else flag.default
        assert values(tmp_path, f"{flag.name} = '{shown}'") == {flag.name: flag.default}


def test_values_have_their_own_types_and_lists_are_joined(tmp_path: Path) -> None:
    text = """
    http-port = 8080
    stun = false
    accept-connection-limit = 5
    tcp-write-timeout = "1.5s"
    mesh-with = ["a.example.com", "b.example.com/10.0.0.2"]
    socket = ["/a.sock", "/b.sock"]
    """
    assert values(tmp_path, text) == {
        "http-port": 8080,
        "stun": False,
        "accept-connection-limit": 5.0,
        "tcp-write-timeout": 1.5,
        "mesh-with": "a.example.com,b.example.com/10.0.0.2",
        "socket": ("/a.sock", "/b.sock"),
    }


def test_a_table_stands_for_the_part_before_a_dash(tmp_path: Path) -> None:
    text = "[acme]\nemail = 'a@b.c'\n[acme.eab]\nkid = 'k'\n[verify-client]\nurl = 'http://a/'"
    expected = {"acme-email": "a@b.c", "acme-eab-kid": "k", "verify-client-url": ("http://a/",)}
    assert values(tmp_path, text) == expected


def test_the_command_line_has_precedence_also_with_default_values(tmp_path: Path) -> None:
    below = values(tmp_path, "http-port = 8080\nhostname = 'a.example.com'")
    line = parse(DERPER_FLAGS, ["-http-port=80"]).over(below)
    assert line[flags.HTTP_PORT] == 80
    assert line[flags.HOSTNAME] == "a.example.com"
    assert line.given(flags.HOSTNAME)
    assert not line.given(flags.HOME)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[acme]\nemial = 'a'", "'acme.emial'.*did you mean 'acme-email'"),
        ("whatever-this-is = 1", "'whatever-this-is'.*derper -h"),
        ("http-port = 'eighty'", "'http-port' = 'eighty', wanted a whole number"),
        ("http-port = true", "'http-port' = True, wanted a whole number"),
        ("http-port = 80.5", "wanted a whole number"),
        ("stun = 1", "wanted true or false"),
        ("hostname = 5", "wanted text"),
        ("hostname = [5]", "wanted a list of texts"),
        ("tcp-write-timeout = 2", "wanted a duration such as '1.5s'"),
        ("mesh-with = 'a'\n[mesh]\nwith = 'b'", "'mesh.with' and 'mesh-with'"),
        ("hostname = ", "are not TOML"),
        ("a = " + "[" * 5000, "are not TOML"),
    ],
)
def test_an_invalid_entry_is_an_error_with_its_name(tmp_path: Path, text: str, words: str) -> None:
    assert re.search(words, refusal(tmp_path, text))


def test_a_missing_or_binary_file_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none", DERPER_FLAGS)
    (tmp_path / "derper.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="are not TOML"):
        read(tmp_path / "derper.toml", DERPER_FLAGS)
