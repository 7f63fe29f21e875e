"""The tools besides the server, `derper TOOL …`: arguments in, a table or JSON out, an exit code. One module per tool.

A tool's name counts only as the first argument. Exit codes: 0 for success; 1 for a failure (for `doctor`: a red line);
2 for invalid arguments. The tools' work is in `derper.tools`.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final

from derper.cli.goflags import Flag
from derper.goquote import quote

TOOLS: Final = {
    "cat": "talk to another key through a relay, as netcat does",
    "ctl": "tell a running server what to do: drain, reload, disconnect, health",
    "doctor": "look at a relay, or all of a DERP map, from outside",
    "keygen": "make a key file or a mesh key",
    "map": "print this server's entry for a DERP map",
    "settings": "show the settings that would be in force, and the source of each",
    "top": "show the clients of a running server by their traffic",
}


def run(words: Sequence[str]) -> int:
    """Run the tool that the first argument names, with the others."""
    # A late import, because each tool loads modules that the server does not need.
    code: int = import_module(f"{__name__}.{words[0]}").main(words[1:])
    return code


def described() -> str:
    """Return the list of tools for the end of the program's usage text."""
    lines = [f"  {name}\t{text}\n" for name, text in TOOLS.items()]
    return "".join(["\nTools, as the first word; each has a -h of its own:\n", *lines])


def unknown(word: str, flags: Iterable[Flag[Any]]) -> str:
    """Return the error for a first argument that is neither a tool nor a flag: complete lines with the nearest name."""
    names = {**{name: name for name in TOOLS}, **{flag.name: f"-{flag.name}" for flag in flags}, "help": "-help"}
    near = get_close_matches(word.partition("=")[0].lower(), names, n=1)
    advice = f"did you mean '{names[near[0]]}'?\n" if near else ""
    return f"unknown tool {quote(word)}\n{advice}'derper -h' lists all flags and tools\n"
