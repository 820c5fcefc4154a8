"""Reads a configuration file: YAML, with the line of each value, and one sentence for each mistake.

Scalars keep the text that the file has, so that click's types convert the text that a flag would have: "on",
"1e3" and "12:30" are no booleans, numbers or times here. Inside an object, scalars are JSON's.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml

from vram_llm.errors import BadConfig
from vram_llm.state_file import read_state
from vram_llm.units import KIB

_MAX_BYTES = 256 * KIB
_NULL, _BOOL, _NUMBER, _TEXT = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "float", "str"))
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class _ConfigLoader(yaml.SafeLoader):
    """YAML's core schema with JSON's numbers. It composes nodes; nothing is constructed from them."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML fills it for each class, and reads it as an attribute of the class

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node. Raises MarkedYAMLError for an alias: a few of them can stand for gigabytes."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # typeshed has no types for it
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not read; repeat the value", problem_mark=mark
            )
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        r"""A text. JSON writes some characters as two escapes, "\ud83d\ude00", which PyYAML leaves apart."""
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        try:
            node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            problem = "half of a character is escaped here"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        return node


_ConfigLoader.add_implicit_resolver(_NULL, re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_ConfigLoader.add_implicit_resolver(
    _BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
_ConfigLoader.add_implicit_resolver(
    _NUMBER, re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z"), list("-0123456789")
)


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """A key of the file with its value, which is read as the option wants it. `line` counts from 1."""

    path: Path
    key: str
    line: int
    node: yaml.Node = field(repr=False)

    @property
    def place(self) -> str:
        """FILE:LINE."""
        return f"{self.path}:{self.line}"

    @property
    def is_object(self) -> bool:
        """Whether the value has keys of its own."""
        return isinstance(self.node, yaml.MappingNode)

    def text(self) -> str:
        """One value, as text. Raises BadConfig."""
        match self.node:
            case yaml.SequenceNode():
                self._fail(f"{self.key} takes one value, not a list")
            case yaml.MappingNode():
                self._fail(f"{self.key} takes one value, not lines of its own")
        return self._scalar(self.node)

    def texts(self) -> tuple[str, ...]:
        """A list, or one value, as texts. Raises BadConfig."""
        match self.node:
            case yaml.SequenceNode(value=nodes):
                if any(not isinstance(node, yaml.ScalarNode) for node in nodes):
                    self._fail(f"{self.key} takes a list of plain values")
                return tuple(self._scalar(node) for node in nodes)
            case yaml.MappingNode():
                self._fail(f"{self.key} takes a list, not lines of its own")
        return (self._scalar(self.node),)

    def objects(self) -> tuple["ConfigObject", ...]:
        """A list of objects and plain values. Raises BadConfig for another value, and for an empty list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self._fail(f"{self.key} takes a list: lines that begin with `- `")
        if not self.node.value:
            self._fail(f"{self.key} is an empty list; give it an entry, or remove the line")
        return tuple(self._object(node) for node in self.node.value)

    def _object(self, node: yaml.Node) -> "ConfigObject":
        line = node.start_mark.line + 1
        _check_tag(self.path, node)
        match node:
            case yaml.MappingNode():
                pairs = _pairs(self.path, node)
                entries = (ConfigEntry(self.path, str(key.value), _line(key), value) for key, value in pairs)
                return ConfigObject(self.path, line, tuple(entries), None)
            case yaml.SequenceNode():
                raise BadConfig(f"{self.path}:{line}: an entry of {self.key} is not a list")
        return ConfigObject(self.path, line, (), ConfigEntry(self.path, self.key, line, node).text())

    def data(self) -> Any:
        """The value as JSON: objects, lists, texts, numbers, true, false and null. Raises BadConfig."""
        return _data(self.path, self.node)

    def _scalar(self, node: yaml.Node) -> str:
        if node.tag == _NULL:
            self._fail(f"{self.key} has no value; give one, or remove the line")
        _check_tag(self.path, node)
        text = str(node.value)
        return os.path.expanduser(text) if text.startswith("~/") else text

    def _fail(self, problem: str) -> NoReturn:
        raise BadConfig(f"{self.place}: {problem}")


@dataclass(frozen=True, slots=True)
class ConfigObject:
    """An entry of a list in the file: an object with its keys, or one `text`. `line` counts from 1."""

    path: Path
    line: int
    entries: tuple[ConfigEntry, ...]
    text: str | None

    @property
    def place(self) -> str:
        """FILE:LINE."""
        return f"{self.path}:{self.line}"


def read_config(path: Path) -> list[ConfigEntry]:
    """The entries of a file, in its order. Raises BadConfig."""
    try:
        return list(_entries(path, _composed(path, _text(path))))
    except RecursionError:
        raise BadConfig(f"{path} has brackets or lines nested too deeply") from None


def is_true(entry: ConfigEntry) -> bool:
    """The value as click's flags read it. Raises BadConfig."""
    try:
        return click.BOOL.convert(entry.text(), None, None)
    except click.BadParameter:
        raise BadConfig(f"{entry.place}: {entry.key} is true or false, not {entry.text()!r}") from None


def others_can_read(path: Path) -> bool:
    """Whether any user of this computer may read the file."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def _text(path: Path) -> str:
    try:
        return read_state(path, _MAX_BYTES, follow=True).decode("utf-8-sig")  # Kubernetes mounts links
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadConfig(f"{path}:{line}: this is not text in UTF-8") from None
    except OSError as error:
        raise BadConfig(f"the configuration {path} cannot be read: {error.strerror or error}") from None


def _composed(path: Path, text: str) -> yaml.Node | None:
    try:
        loader = _ConfigLoader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{error.character:04X}"
        raise BadConfig(f"{path}:{line}: the character {character} cannot stand in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise BadConfig(f"{path}:{line}: {_problem(error.problem or str(error))}") from None


def _problem(problem: str) -> str:
    if r"'\t'" in problem:
        return "a tab stands where YAML takes spaces"
    if "another document" in problem or "document start" in problem:
        return "a second document begins, and a configuration is one"
    return problem if problem.startswith("aliases") else f"this is not YAML: {problem}"


def _entries(path: Path, root: yaml.Node | None) -> Iterator[ConfigEntry]:
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == _NULL):
        return
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        raise BadConfig(
            f"{path}:{line}: a configuration is lines of `option: value`, with a space after the colon"
        )
    _check_tag(path, root)
    for key, node in _pairs(path, root):
        yield ConfigEntry(path, str(key.value), _line(key), node)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _pairs(path: Path, mapping: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The keys and values. Raises BadConfig for a key that is no text, and for one that comes twice."""
    lines: dict[str, int] = {}
    for key, node in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise BadConfig(f"{path}:{line}: a key is a name, not a list or an object")
        _check_tag(path, key)
        if key.value in lines:
            raise BadConfig(f"{path}:{line}: {key.value} is here twice, first on line {lines[key.value]}")
        lines[key.value] = line
        yield key, node


def _data(path: Path, node: yaml.Node) -> Any:
    _check_tag(path, node)
    match node:
        case yaml.MappingNode():
            return {str(key.value): _data(path, value) for key, value in _pairs(path, node)}
        case yaml.SequenceNode(value=nodes):
            return [_data(path, inner) for inner in nodes]
    text = str(node.value)
    match node.tag:
        case tag if tag == _NULL:
            return None
        case tag if tag == _BOOL:
            return text.lower() == "true"
        case tag if tag == _NUMBER:
            return _number(path, node, text)
    return text


def _number(path: Path, node: yaml.Node, text: str) -> int | float:
    try:
        number: int | float = json.loads(text)
    except ValueError:  # more digits than Python converts
        raise BadConfig(f"{path}:{node.start_mark.line + 1}: this number has too many digits") from None
    return number


def _check_tag(path: Path, node: yaml.Node) -> None:
    """Raises BadConfig for a tag: it would make something else of the text than a flag does."""
    if node.tag not in (_NULL, _BOOL, _NUMBER, _TEXT, *_COLLECTIONS):
        line = node.start_mark.line + 1
        raise BadConfig(f"{path}:{line}: tags ({node.tag}) are not read; write the value alone")
