"""HTTP answers read from a wire, as far as tests need them: head, and body by its length or to the end."""

from dataclasses import dataclass

from derpwire import Wire


@dataclass(frozen=True)
class Answer:
    """One answer, with its lines as sent."""

    status_line: str
    headers: tuple[tuple[str, str], ...]  # in order, names as spelt
    body: bytes

    @property
    def status(self) -> int:
        return int(self.status_line.split()[1])

    def get(self, name: str) -> str | None:
        return next((value for header, value in self.headers if header.lower() == name.lower()), None)


def read_answer(wire: Wire, method: str = "GET") -> Answer:
    """Read one answer; without a length, its body ends when the server closes."""
    lines = wire.head().decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines[1:] if line)
    answer = Answer(lines[0], tuple((name, value) for name, _, value in pairs), b"")
    if method == "HEAD" or answer.status in (101, 204, 304):
        return answer
    if answer.get("Transfer-Encoding"):
        raise AssertionError(f"a chunked answer: {answer}")
    length = answer.get("Content-Length")
    body = wire.rest() if length is None else wire.exactly(int(length))
    return Answer(answer.status_line, answer.headers, body)


def request(method: str, target: str, *headers: str, version: str = "1.1", body: bytes = b"") -> bytes:
    """Return the bytes of a request; with a body, its length is among the headers."""
    lines = [f"{method} {target} HTTP/{version}", "Host: derp.example.test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body
