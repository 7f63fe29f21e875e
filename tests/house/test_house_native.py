"""The extension's stub has exactly the names of the built module: mypy reads the stub, Python runs the module."""

import ast
import inspect

from tracked import ROOT

from derper.dataplane import _native

STUB = ast.parse((ROOT / "src/derper/dataplane/_native.pyi").read_text())


Surface = dict[str, dict[str, list[str]] | str]  # a class's methods with their parameters, or a constant's type


def signature(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def stubbed() -> Surface:
    names: Surface = {}
    for node in STUB.body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = {item.name: signature(item) for item in node.body if isinstance(item, ast.FunctionDef)}
        elif isinstance(node, ast.AnnAssign):
            names[ast.unparse(node.target)] = ast.unparse(node.annotation)
    return names


def built() -> Surface:
    names: Surface = {}
    for name, value in vars(_native).items():
        if inspect.isclass(value):
            methods = [method for method in vars(value) if not method.startswith("__")]
            construct = {"__new__": ["cls", *inspect.signature(value).parameters]}
            names[name] = construct | {name: list(inspect.signature(vars(value)[name]).parameters) for name in methods}
        elif not name.startswith("__"):
            names[name] = type_of(value)
    return names


def type_of(value: object) -> str:
    if isinstance(value, list):
        (element,) = {type(element).__name__ for element in value}
        return f"list[{element}]"
    return type(value).__name__


def test_the_stub_has_the_modules_classes_methods_parameters_and_constants() -> None:
    assert stubbed() == built()


def test_each_kind_of_event_has_a_different_number() -> None:
    numbers = [getattr(_native, name) for name, kind in stubbed().items() if kind == "int"]
    assert sorted(numbers) == list(range(len(numbers)))
