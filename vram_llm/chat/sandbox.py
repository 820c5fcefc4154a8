"""Where a chat template runs. It comes from a model file, so it is untrusted code.

jinja2's sandbox keeps it away from Python's internals. This module limits its work: steps (loop turns, calls,
filters), characters and seconds of processor time (on the clock, a busy machine would refuse good chats). One
string method on large operands (`replace`, `join`) is a single step, whatever it costs: a server renders in
processes that the kernel limits (render_process.py).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from time import thread_time
from typing import Any, NoReturn, TypeVar

from jinja2 import Template, TemplateRuntimeError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 500_000
MAX_SECONDS = 10.0
MAX_NUMBER = 100_000  # of a width, a repetition or an indent; jinja2 limits range() to the same
_LONG_NUMBER = re.compile(r"\d{5}")  # a field width in a format string
_WIDTH_FILTERS = ("batch", "center", "format", "indent", "slice", "truncate", "wordwrap")
_CHANGES: dict[type, tuple[str, ...]] = {  # each changes one item: no list or dict doubles in a step
    list: ("append", "insert", "pop", "remove", "reverse"),
    dict: ("pop", "setdefault"),
}
_T = TypeVar("_T")


class TemplateRefused(TemplateRuntimeError):
    """The template refuses the chat by raise_exception."""


class TooCostly(TemplateRuntimeError):
    """The template does more work, or makes more text, than any chat needs."""


class RenderBudget:
    """Counts the steps and the text of one rendering, and stops it at their limits.

    `max_chars` limits each string. The template may not change `given`, the chat that it renders.
    """

    def __init__(self, max_chars: int, given: object = ()) -> None:
        self.max_chars = max_chars
        self._given = given
        self._given_ids: frozenset[int] | None = None
        self._steps = MAX_STEPS
        self._chars = 8 * max_chars  # text passes through macros and captured blocks more than once
        self._deadline = thread_time() + MAX_SECONDS

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise TooCostly(f"more than {MAX_STEPS:,} steps")
        if thread_time() > self._deadline:
            raise TooCostly(f"more than {MAX_SECONDS:.0f} s")

    def check_length(self, length: int) -> None:
        if length > self.max_chars:
            raise TooCostly(f"more than {self.max_chars:,} characters")

    def owns(self, value: object) -> bool:
        """Whether the template made this list or dict itself, so that it may change it."""
        if self._given_ids is None:
            self._given_ids = frozenset(_ids_within(self._given))
        return id(value) not in self._given_ids

    def write(self, value: _T) -> _T:
        """Count the text that an expression in the template writes."""
        self.step()
        text = value if isinstance(value, str) else str(value)
        self._chars -= len(text)
        if self._chars < 0:
            raise TooCostly(f"more than {self.max_chars:,} characters")
        return value


def _ids_within(value: object) -> Iterator[int]:
    if isinstance(value, dict | list | tuple):
        yield id(value)
        for item in value.values() if isinstance(value, dict) else value:
            yield from _ids_within(item)


budget: ContextVar[RenderBudget] = ContextVar("budget")


class _Metered(NodeTransformer):
    """Adds a step to every loop, and limits the length of `a ~ b`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2's name (jinja2's naming)
        self.generic_visit(node)
        step = nodes.EnvironmentAttribute("step")
        if node.test is not None:  # the test runs for every element, the body only for the chosen ones
            node.test = nodes.And(nodes.Not(step), node.test)
        node.body.insert(0, nodes.ExprStmt(step))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2's name
        self.generic_visit(node)
        return nodes.Call(nodes.EnvironmentAttribute("join"), node.nodes, [], None, None)


def _check_numbers(values: tuple[object, ...]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise TooCostly(f"a number above {MAX_NUMBER:,}")
        if isinstance(value, str) and len(value) < 32 and _LONG_NUMBER.search(value):
            raise TooCostly("a field width of five digits")


def _check_format(text: object, values: tuple[object, ...]) -> None:
    if isinstance(text, str) and _LONG_NUMBER.search(text):
        raise TooCostly("a field width of five digits")
    _check_numbers(values)


def _size(value: object) -> int:
    if isinstance(value, int):
        return value.bit_length() // 8
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    wide = name in _WIDTH_FILTERS

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        budget.get().step()
        if wide:
            _check_format(args[0] if name == "format" else "", (*args[1:], *kwargs.values()))
        return function(*args, **kwargs)

    return call


def _raise(message: object) -> NoReturn:
    raise TemplateRefused(str(message))


def _strftime_now(template: str) -> str:
    _check_format(template, ())
    return datetime.now().strftime(template)


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    """JSON as models are trained to see it: without escapes for HTML or for ASCII."""
    _check_numbers((indent or 0,))
    allowed = {key: options[key] for key in ("sort_keys", "separators") if key in options}
    ascii_only = options.get("ensure_ascii", False)
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent, default=_as_list, **allowed)


def _as_list(value: Any) -> list[Any]:
    """The list of a `map` or `select`. Raises TypeError for a value that is not a sequence."""
    return list(value)


class _Generation(Extension):
    """{% generation %} marks text for training. Here it is its body and nothing else."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatSandbox(ImmutableSandboxedEnvironment):
    """The environment that compiles and renders chat templates."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=lambda value: budget.get().write(value) if budget.get(None) else value,
        )
        self.filters["tojson"] = _tojson
        self.filters = {name: _metered_filter(name, function) for name, function in self.filters.items()}
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_raise, strftime_now=_strftime_now)

    def compile_metered(self, source: str) -> Template:
        """`source` with its meters in place.

        Raises jinja2.TemplateSyntaxError, and RecursionError if it is nested too deeply.
        """
        tree = _Metered().visit(self.parse(source))
        nodes.Node.set_environment(tree, self)
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    @property
    def step(self) -> None:
        """Compiled loops read this at every turn: a property costs a tenth of a call in the sandbox."""
        budget.get().step()

    def join(self, *parts: object) -> str:
        """Compute `a ~ b`: join the texts of `parts`, at most as long as the budget allows."""
        texts = [str(part) for part in parts]
        budget.get().check_length(sum(map(len, texts)))
        return "".join(texts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether the template may read `attr`; Kimi K2's changes lists and dicts that it made itself."""
        if super().is_safe_attribute(obj, attr, value):
            return True
        return attr in _CHANGES.get(type(obj), ()) and budget.get().owns(obj)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call `obj` for the template: takes one step, and limits what str.format writes."""
        budget.get().step()
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            _check_format(text if method.__name__.startswith("format") else "", (*args, *kwargs.values()))
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator in `intercepted_binops` if its result stays within the budget."""
        meter = budget.get()
        meter.step()
        if operator == "**":
            _check_numbers((left, right))
            meter.check_length(_size(left) * abs(right) if isinstance(right, int) else 0)
        elif operator == "*":
            times = right if isinstance(right, int) else left if isinstance(left, int) else 0
            thing = left if isinstance(right, int) else right
            meter.check_length(_size(thing) * (abs(times) if not isinstance(thing, int) else 1))
        elif operator == "%" and isinstance(left, str):
            values = right.values() if isinstance(right, Mapping) else right
            _check_format(left, tuple(values) if not isinstance(values, str | int | float) else (values,))
        else:
            meter.check_length(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)
