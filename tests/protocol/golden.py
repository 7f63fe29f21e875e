"""The golden vectors as test parameters, and the three ways to feed a parser (see tests/vectors/README.md)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st

from derper.protocol.keys import NodePublic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _pytest.mark import ParameterSet

    from derper.protocol.reader import FrameReader, RawFrame

VECTORS = Path(__file__).parents[1] / "vectors"

Case = dict[str, Any]


@cache
def load(name: str) -> Case:
    loaded: Case = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return loaded


def by_name(cases: Iterable[Case], without: Callable[[Case], bool] = lambda _: False) -> list[ParameterSet]:
    return [pytest.param(case, id=case["name"]) for case in cases if not without(case)]


def node(digits: str) -> NodePublic:
    return NodePublic.from_hex(digits)


def portions(data: bytes, how: str) -> Iterator[bytes]:
    """Return `data` whole, byte by byte, or with more bytes after it (three, too few for a header)."""
    match how:
        case "whole":
            yield data
        case "bytes":
            for at in range(len(data)):
                yield data[at : at + 1]
        case "leftover":
            yield data + b"\x05\x00\x00"
        case _:
            raise AssertionError(how)


feedings = pytest.mark.parametrize("how", ["whole", "bytes", "leftover"])


def frames_of(reader: FrameReader, data: bytes, how: str = "whole") -> list[RawFrame]:
    frames = []
    for portion in portions(data, how):
        reader.feed(portion)
        while frame := reader.next_frame():
            frames.append(frame)
    return frames


def one_frame(reader: FrameReader, data: bytes, how: str = "whole") -> RawFrame:
    (frame,) = frames_of(reader, data, how)
    return frame


node_keys = st.binary(min_size=32, max_size=32).map(NodePublic)
app_names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=32)
