"""The generator of the library's reference fails if a public name has no documentation."""

import sys
from pathlib import Path

import pytest
from tracked import ROOT

sys.path.append(str(ROOT / "tools"))

from docstrings import DocError, Documented, Module, Row

DOCUMENTED = """
LIMIT = 3

class Client(Base):
    \"\"\"Connects.

    Args:
        where: The URL.
        seconds: Seconds to wait
            for the answer.

    Raises:
        ValueError: The URL is invalid.

    Source: docs/protocol/protocol.md, Login.
    \"\"\"

    def __init__(self, where: str, *, seconds: int = LIMIT) -> None:
        raise ValueError("invalid")

    async def send(self, packet: bytes) -> bool:
        \"\"\"Send `packet`.

        Returns:
            Whether it was sent.
        \"\"\"
"""


def document(folder: Path, source: str, name: str = "Client") -> Documented:
    path = folder / "module.py"
    path.write_text(source)
    return Module(path).document(name)


def test_a_class_is_read_with_its_arguments_errors_and_methods(tmp_path: Path) -> None:
    found = document(tmp_path, DOCUMENTED)
    assert found.signature == "class Client(where: str, *, seconds: int = 3)"
    assert found.arguments == (Row("where", "str", "", "The URL."), Row("seconds", "int", "3", SECONDS_MEANING))
    assert found.raises == {"ValueError": "The URL is invalid."}
    assert found.source == "docs/protocol/protocol.md, Login."
    (method,) = found.methods
    assert (method.signature, method.returns) == ("await send(packet: bytes) -> bool", "Whether it was sent.")


SECONDS_MEANING = "Seconds to wait for the answer."


@pytest.mark.parametrize(
    ("documented", "missing", "error"),
    [
        ("        where: The URL.\n", "", "where is not documented"),
        ("Send `packet`.", "Send it.", "packet is not documented"),
        ("        ValueError: The URL is invalid.\n", "", "ValueError is raised and not listed"),
        ("    Source: docs/protocol/protocol.md, Login.\n", "", "Source: nothing is written there"),
        ("where: The URL.", "where: The URL.\n        port: The port.", "port does not exist"),
        ("class Client", "class Other", "Client is not defined"),
    ],
    ids=["argument", "parameter", "error", "source", "an argument that does not exist", "name"],
)
def test_missing_documentation_is_an_error(tmp_path: Path, documented: str, missing: str, error: str) -> None:
    assert documented in DOCUMENTED
    with pytest.raises(DocError, match=error):
        document(tmp_path, DOCUMENTED.replace(documented, missing))
