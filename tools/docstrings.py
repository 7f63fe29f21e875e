"""Public names of a module as its source documents them: signatures, fields, and Google-style docstrings.

A class or function must have a docstring and, itself or through its module, a `Source:` line. Each argument and field
must have an entry or be named in backticks in the text. Each error that a function raises itself must be listed.
Otherwise `DocError` is raised with the missing part. The source is parsed, never imported.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

_SECTION: Final = re.compile(r"(Args|Attributes|Returns|Raises|Source):(?: (.*))?$")
_ENTRY: Final = re.compile(r" {4}(\w+): (.*)$")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class DocError(Exception):
    """A public name lacks documentation."""


@dataclass(frozen=True)
class Row:
    """An argument or a field; without a meaning, the text of its function explains it."""

    name: str
    type: str
    default: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Documented:
    """One name with its signature, as the page shows it."""

    name: str
    signature: str
    text: str
    source: str = ""
    returns: str = ""
    raises: dict[str, str] = field(default_factory=dict)
    arguments: tuple[Row, ...] = ()
    attributes: tuple[Row, ...] = ()
    methods: tuple["Documented", ...] = ()


@dataclass(frozen=True)
class _Doc:
    """A docstring's sections."""

    text: str
    args: dict[str, str]
    attributes: dict[str, str]
    returns: str
    raises: dict[str, str]
    source: str


class Module:
    """The source of one module.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.stem
        self._body = ast.parse(path.read_text("utf-8")).body
        self._source = _parse(_string(self._body[0])).source
        _Literals(self._body).resolve()

    def document(self, name: str) -> Documented:
        """Return the documentation of the top-level name `name`.

        Raises:
            DocError: The name is missing, or its documentation is incomplete.
        """
        where = f"{self._name}.{name}"
        for node, following in zip(self._body, [*self._body[1:], None], strict=True):
            match node:
                case ast.ClassDef() if node.name == name:
                    return self._class(node, where)
                case ast.FunctionDef() if node.name == name:
                    found = _function(node, where, name)
                    return replace(found, source=_needed(found.source or self._source, f"{where}: Source"))
                case ast.Assign([ast.Name(target)], value) if target == name:
                    kind = f": {ast.unparse(value.func)}" if isinstance(value, ast.Call) else f" = {ast.unparse(value)}"
                    return Documented(name, f"{name}{kind}", _needed(_string(following), where))
        raise DocError(f"{where} is not defined")

    def _class(self, node: ast.ClassDef, where: str) -> Documented:
        doc = _doc(node, where)
        parameters = list(_parameters(node))
        attributes = [*_fields(node), *_members(node)]
        is_exception = not attributes and not parameters and any("Error" in ast.unparse(base) for base in node.bases)
        _only(doc.args, parameters, f"{where}: Args")
        _only(doc.attributes, attributes, f"{where}: Attributes")
        methods = []
        for item in node.body:
            if not isinstance(item, Function):
                continue
            if item.name in ("__init__", "__post_init__"):
                _listed(item, doc.raises, where)
            elif not item.name.startswith("_"):
                methods.append(_function(item, f"{where}.{item.name}", node.name))
        bases = "" if parameters or not node.bases else f"({', '.join(map(ast.unparse, node.bases))})"
        called = bases if is_exception or not parameters else f"({_shown(parameters)})"
        return Documented(
            node.name,
            f"class {node.name}{called}",
            doc.text,
            _needed(doc.source or self._source, f"{where}: Source"),
            raises=doc.raises,
            arguments=tuple(_explained(parameters, doc.args, doc.attributes, where)),
            attributes=tuple(_explained(attributes, doc.attributes, {}, where)),
            methods=tuple(methods),
        )


class _Literals(ast.NodeTransformer):
    """Replaces a module's own constants in defaults by their values."""

    def __init__(self, body: list[ast.stmt]) -> None:
        self._body = body
        self._values: dict[str, ast.Constant] = {}
        for node in body:
            match node:
                case ast.Assign([ast.Name(name)], ast.Constant() as value):
                    self._values[name] = value

    def resolve(self) -> None:
        """Change the classes and functions of the module."""
        for node in self._body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.visit(node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Return the constant's value in place of its name."""
        return self._values.get(node.id, node)


def _function(node: Function, where: str, shown: str) -> Documented:
    """Return the documentation of a function, or of a method of the class `shown`."""
    doc = _doc(node, where)
    kinds = {ast.unparse(decorator) for decorator in node.decorator_list}
    parameters = list(_arguments(node, bound=shown != node.name and "staticmethod" not in kinds))
    result = ast.unparse(node.returns) if node.returns else ""
    _only(doc.args, parameters, f"{where}: Args")
    _listed(node, doc.raises, where)
    mentioned = {row.name: "" for row in parameters if f"`{row.name}`" in doc.text or row.name.startswith("_")}
    arguments = [row for row in _explained(parameters, doc.args, mentioned, where) if row.meaning]
    called = f"({_shown(parameters)}) -> {result}"
    if shown == node.name:
        signature = f"{node.name}{called}"
    elif "property" in kinds:
        signature = f"{node.name}: {result}"
    else:
        owner = f"{shown}." if kinds & {"classmethod", "staticmethod"} else ""
        signature = f"{'await ' if isinstance(node, ast.AsyncFunctionDef) else ''}{owner}{node.name}{called}"
    return Documented(node.name, signature, doc.text, doc.source, doc.returns, doc.raises, tuple(arguments))


def _arguments(node: Function, *, bound: bool) -> Iterator[Row]:
    """Yield a function's parameters, with `*` before keyword-only ones."""
    positional = node.args.args[1:] if bound else node.args.args
    defaults = [None] * len(positional) + list(node.args.defaults)
    for argument, default in zip(positional, defaults[-len(positional) :] if positional else [], strict=True):
        yield _row(argument.arg, argument.annotation, default)
    if node.args.kwonlyargs:
        yield Row("*", "")
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        yield _row(argument.arg, argument.annotation, default)


def _parameters(node: ast.ClassDef) -> Iterator[Row]:
    """Yield the parameters of a class's constructor; for a dataclass or a named tuple these are the fields."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any("kw_only=True" in decorator for decorator in decorators):
        yield Row("*", "")
    if any(decorator.startswith("dataclass") for decorator in decorators) or _is_named_tuple(node):
        yield from _fields(node)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            yield from _arguments(item, bound=True)


def _fields(node: ast.ClassDef) -> Iterator[Row]:
    """Yield the annotated attributes of a class."""
    for item in node.body:
        match item:
            case ast.AnnAssign(ast.Name(name), annotation, value) if not name.startswith("_"):
                if "ClassVar" not in ast.unparse(annotation):
                    yield _row(name, annotation, value)


def _members(node: ast.ClassDef) -> Iterator[Row]:
    """Yield the members of an enumeration."""
    if any(ast.unparse(base).startswith("enum.") for base in node.bases):
        for item in node.body:
            match item:
                case ast.Assign([ast.Name(name)], value):
                    yield Row(name, "", ast.unparse(value))


def _is_named_tuple(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base) == "NamedTuple" for base in node.bases)


def _row(name: str, annotation: ast.expr | None, default: ast.expr | None) -> Row:
    """Return the row of an argument or a field. If a default is written as `field(...)`, show only its value."""
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "field":
        found = {keyword.arg: keyword.value for keyword in default.keywords}
        factory = found.get("default_factory")
        default = ast.Call(factory, [], []) if factory else found.get("default")
    return Row(name, ast.unparse(annotation) if annotation else "", ast.unparse(default) if default else "")


def _shown(parameters: list[Row]) -> str:
    """Return the parameters of a signature."""
    return ", ".join(
        row.name if row.name == "*" else f"{row.name}: {row.type}" + (f" = {row.default}" if row.default else "")
        for row in parameters
    )


def _explained(rows: list[Row], meanings: dict[str, str], elsewhere: dict[str, str], where: str) -> Iterator[Row]:
    """Yield the rows with their meanings; drop those that are explained elsewhere.

    Raises:
        DocError: A row has no meaning anywhere.
    """
    for row in rows:
        if row.name in meanings:
            yield Row(row.name, row.type, row.default, meanings[row.name])
        elif row.name != "*" and row.name not in elsewhere and not _is_number(row.default):
            raise DocError(f"{where}: {row.name} is not documented")
        elif _is_number(row.default) and not row.type:
            yield row


def _is_number(default: str) -> bool:
    return default.isdecimal()


def _only(entries: dict[str, str], rows: list[Row], where: str) -> None:
    extra = entries.keys() - {row.name for row in rows}
    if extra:
        raise DocError(f"{where}: {', '.join(sorted(extra))} does not exist")


def _listed(node: Function, raises: dict[str, str], where: str) -> None:
    """Check that every error that a function raises itself is listed."""
    for item in ast.walk(node):
        if isinstance(item, ast.Raise) and isinstance(item.exc, ast.Call):
            name = ast.unparse(item.exc.func)
            if name not in raises:
                raise DocError(f"{where}: {name} is raised and not listed")


def _doc(node: ast.ClassDef | Function, where: str) -> _Doc:
    return _parse(_needed(ast.get_docstring(node) or "", where))


def _string(node: ast.stmt | None) -> str:
    """Return the text of a statement that is only a string."""
    match node:
        case ast.Expr(ast.Constant(str(text))):
            return text
        case _:
            return ""


def _needed(text: str, where: str) -> str:
    if not text:
        raise DocError(f"{where}: nothing is written there")
    return text


def _parse(docstring: str) -> _Doc:
    """Return the text and the sections of a docstring."""
    parts: dict[str, list[str]] = {}
    current = "text"
    for line in docstring.splitlines():
        found = _SECTION.match(line)
        if found:
            current, line = found[1], found[2] or ""  # noqa: PLW2901  what is left of the line
        parts.setdefault(current, []).append(line)
    words = {name: " ".join(" ".join(lines).split()) for name, lines in parts.items()}
    return _Doc(
        "\n".join(parts.get("text", [])).strip(),
        _entries(parts.get("Args", [])),
        _entries(parts.get("Attributes", [])),
        words.get("Returns", ""),
        _entries(parts.get("Raises", [])),
        words.get("Source", ""),
    )


def _entries(lines: list[str]) -> dict[str, str]:
    """Return the entries of a section: a name and a meaning each, over one line or more."""
    entries: dict[str, str] = {}
    name = ""
    for line in lines:
        found = _ENTRY.match(line)
        if found:
            name = found[1]
            entries[name] = found[2]
        elif name and line.strip():
            entries[name] += f" {line.strip()}"
    return entries
