"""Measure the package: longest function, most parameters, most methods, longest file, shared class names.

    python -m scripts.measure_code

It fails if a figure is over its limit: functions of 60 lines, 7 parameters (except click commands, whose
parameters are options), classes of 20 methods unless their docstring gives a reason for more, files of 400
lines, and class names used once. `EXCEPTIONS` lists figures that may be over a limit, each with its reason;
an exception that is not needed fails too.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "vram_llm"
MAX_LINES, MAX_PARAMETERS, MAX_METHODS, MAX_FILE_LINES = 60, 7, 20, 400
REASON = "methods:"  # begins the sentence of a docstring with the reason why a class has more

EXCEPTIONS = {
    "chat/formats/call_format.py:object_format parameters": "options of one JSON format",
}
"""Figures over a limit, each with its reason. Entries are only removed, never added."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of one function, class, file or class name. `is_excused`: its docstring gives a reason."""

    what: str
    name: str  # as in EXCEPTIONS
    value: int
    limit: int
    is_excused: bool = False

    @property
    def is_over(self) -> bool:
        """True if the figure is over its limit and no docstring excuses it."""
        return self.value > self.limit and not self.is_excused


def measures(package: Path) -> list[Measure]:
    """All figures of the package's files."""
    found: list[Measure] = []
    classes: dict[str, list[str]] = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        name, text = path.relative_to(package).as_posix(), path.read_text(encoding="utf-8")
        found.append(Measure("file lines", name, len(text.splitlines()), MAX_FILE_LINES))
        for node, qualified, is_method in _definitions(ast.parse(text)):
            where = f"{name}:{qualified}"
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(where)
                found.append(_methods(node, where))
            else:
                found += _function(node, where, is_method=is_method)
    found += [
        Measure("classes of one name", f"class {name}", len(files), 1) for name, files in classes.items()
    ]
    return found


def _definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[ast.ClassDef | Function, str, bool]]:
    """Classes and functions at any depth, with their qualified names, and whether they are methods."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, prefix + node.name, isinstance(tree, ast.ClassDef)
            yield from _definitions(node, f"{prefix}{node.name}.")
        else:
            yield from _definitions(node, prefix)


def _function(node: Function, where: str, *, is_method: bool) -> list[Measure]:
    n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
    found = [Measure("function lines", where, n_lines, MAX_LINES)]
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if not any("command" in decorator or "click." in decorator for decorator in decorators):
        found.append(Measure("parameters", where, _n_parameters(node, is_method), MAX_PARAMETERS))
    return found


def _n_parameters(node: Function, is_method: bool) -> int:
    arguments = node.args
    n_parameters = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
    n_parameters += (arguments.vararg is not None) + (arguments.kwarg is not None)
    is_static = any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
    return n_parameters - (is_method and not is_static)


def _methods(node: ast.ClassDef, where: str) -> Measure:
    n_methods = sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)
    gives_reason = REASON in (ast.get_docstring(node) or "").lower()
    return Measure("methods", where, n_methods, MAX_METHODS, gives_reason)


def main() -> int:
    """Print the largest figure of each kind and all over a limit. Returns 1 if one has no exception."""
    found = measures(PACKAGE)
    for what in dict.fromkeys(measure.what for measure in found):
        largest = max(
            (measure for measure in found if measure.what == what), key=lambda measure: measure.value
        )
        print(f"{what}: {largest.value} at most, in {largest.name} (limit {largest.limit})")
    over = {f"{measure.name} {measure.what}": measure for measure in found if measure.is_over}
    for key, measure in over.items():
        print(f"over the limit: {key}: {measure.value}; {EXCEPTIONS.get(key, 'NOT EXCEPTED')}")
    needless = EXCEPTIONS.keys() - over.keys()
    for key in sorted(needless):
        print(f"needless exception: {key}")
    return int(bool(needless or over.keys() - EXCEPTIONS.keys()))


if __name__ == "__main__":
    sys.exit(main())
