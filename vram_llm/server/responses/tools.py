"""Tools as responses declare them: functions, custom tools, namespaces of both, tools that run elsewhere."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError, model_validator

from vram_llm.errors import RequestError
from vram_llm.server.errors import MissingField, NotSupported
from vram_llm.server.known_fields import Fields, check_fields
from vram_llm.server.tool_choice import ParsedToolChoice, parse_tool_choice
from vram_llm.server.tools import OfferedTool, ToolName, ToolUse, custom_tool_offer, resolve_tool_use

# OpenAI runs these, or the client runs them without a schema for the model.
_KNOWN = re.compile(
    r"(web_search|web_search_preview|web_fetch|file_search|code_interpreter|image_generation|computer|"
    r"computer_use|computer_use_preview|mcp|local_shell|shell|apply_patch|tool_search|"
    r"programmatic_tool_calling)(_\d{4}_\d{2}_\d{2})?"
)
_OWN = ("function", "custom", "namespace")
_DEFAULT = "functions"  # the namespace of tools without one (Codex)


class ResponseTool(Fields):
    """A tool. `parameters` is a JSON schema of an object; a namespace holds `tools`."""

    ignored: ClassVar[frozenset[str]] = frozenset(
        {
            "defer_loading",
            "allowed_callers",
            "async",
            "output_schema",
            "cache_control",
            "_meta",
            "annotations",
        }
    )

    type: str
    name: ToolName | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: dict[str, Any] | None = None
    tools: list["ResponseTool"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        """Accept the form of chat completions too: some clients send one form to both."""
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in ("function", "custom") or not isinstance(value.get(kind), dict) or "name" in value:
            return value
        return {**{name: own for name, own in value.items() if name != kind}, **value[kind]}

    @model_validator(mode="after")
    def _forget(self) -> Self:
        """Drop the other fields of a tool that does not run here."""
        if self.type not in _OWN:
            self.__pydantic_extra__ = {}
        return self


_RESPONSE_TOOLS = TypeAdapter(list[ResponseTool])


@dataclass(frozen=True, slots=True)
class ClientToolName:
    """The name of a tool at the client, and whether it takes a text."""

    name: str
    namespace: str | None = None
    takes_text: bool = False


@dataclass(frozen=True, slots=True)
class SortedResponseTools:
    """The tools to offer, their names at the client, and the reasons for leaving others out."""

    offers: tuple[OfferedTool, ...]
    client_names: Mapping[str, ClientToolName]  # by the name that the model sees
    left_out: Mapping[str, str]  # by type

    def use(self, choice: Any, parallel: bool | None) -> ToolUse:
        """Check `tool_choice` against the tools. Raises RequestError."""
        kind = choice.get("type") if isinstance(choice, dict) else None
        if isinstance(kind, str) and _KNOWN.fullmatch(kind):
            raise NotSupported(
                f"'tool_choice' asks for a tool of type '{kind}', which this server does not run",
                "tool_choice",
            )
        if kind == "allowed_tools" and isinstance(choice.get("tools"), list):
            choice = {**choice, "tools": [tool for tool in choice["tools"] if not _is_others(tool)]}
        if choice == "required" and self.left_out and not self.offers:
            raise NotSupported(
                f"'tool_choice' asks for a call: {next(iter(self.left_out.values()))}", "tool_choice"
            )
        return resolve_tool_use(self.offers, self._named(choice), parallel)

    def _named(self, value: Any) -> ParsedToolChoice:
        namespace = value.get("namespace") if isinstance(value, dict) else None
        if isinstance(namespace, str):
            value = {name: own for name, own in value.items() if name != "namespace"}
        choice = parse_tool_choice(value)
        only = None if choice.only is None else self.flat(choice.only, namespace)
        allowed = None if choice.allowed is None else tuple(self.flat(name) for name in choice.allowed)
        return replace(choice, only=only, allowed=allowed)

    def flat(self, name: str, namespace: str | None = None) -> str:
        """The name of a tool that the model sees; `name` itself if it is unknown or ambiguous."""
        if namespace:
            return flat_name(name, namespace)
        matches = [flat for flat, tool in self.client_names.items() if tool.name == name]
        return name if name in self.client_names or len(matches) != 1 else matches[0]


def flat_name(name: str, namespace: str | None) -> str:
    """The name of a namespace's tool that the model sees."""
    return name if not namespace or namespace == _DEFAULT else f"{namespace.rstrip('_')}__{name}"


def sort_tools(
    tools: Sequence[ResponseTool], at: Callable[[int], str] = "tools[{}]".format
) -> SortedResponseTools:
    """Sort the tools. `at` gives the path of each for errors. Raises RequestError."""
    offers: list[OfferedTool] = []
    client_names: dict[str, ClientToolName] = {}
    left_out: dict[str, str] = {}
    for i, tool in enumerate(tools):
        if tool.type in ("function", "custom"):
            _offer(tool, None, at(i), offers, client_names)
        elif tool.type == "namespace":
            space = _name(tool, at(i))
            for k, inner in enumerate(tool.tools or ()):
                if inner.type not in ("function", "custom"):
                    raise NotSupported(
                        f"'{at(i)}.tools[{k}].type' must be 'function' or 'custom'",
                        f"{at(i)}.tools[{k}].type",
                    )
                description = tool.description if k == 0 else None  # only with the first tool
                _offer(inner, space, f"{at(i)}.tools[{k}]", offers, client_names, description)
        elif _KNOWN.fullmatch(tool.type):
            left_out[tool.type] = f"Tools of type '{tool.type}' are not run by this server"
        else:
            raise NotSupported(f"'{at(i)}.type': there are no tools of type '{tool.type}'", f"{at(i)}.type")
    return SortedResponseTools(tuple(offers), client_names, left_out)


def tools_in(items: Any) -> list[ResponseTool]:
    """Tools that items of the input declare. Raises RequestError."""
    declared: list[ResponseTool] = []
    for i, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict) and item.get("type") in ("additional_tools", "tool_search_output"):
            at, tools = f"input[{i}].tools", item.get("tools") or []
            try:
                brought = _RESPONSE_TOOLS.validate_python(tools)
            except ValidationError:
                raise RequestError(f"'{at}' must be a list of tools, each with a 'type'", at) from None
            for k, tool in enumerate(brought):
                check_fields(tool, f"{at}[{k}]")
            declared += brought
    return declared


def distinct(tools: Sequence[ResponseTool]) -> list[ResponseTool]:
    """The tools, each once."""
    return list({tool.model_dump_json(): tool for tool in tools}.values())


def _offer(
    tool: ResponseTool,
    namespace: str | None,
    at: str,
    offers: list[OfferedTool],
    client_names: dict[str, ClientToolName],
    namespace_description: str | None = None,
) -> None:
    name = _name(tool, at)
    flat, description = flat_name(name, namespace), tool.description or ""
    if namespace_description:
        description = f"{description}\n\n{namespace}: {namespace_description}".strip()
    if tool.type == "custom":
        offers.append(custom_tool_offer(flat, description, tool.format, at))
    else:
        offers.append(OfferedTool(flat, description, tool.parameters or {}, strict=bool(tool.strict)))
    client_names[flat] = ClientToolName(name, namespace, tool.type == "custom")


def _name(tool: ResponseTool, at: str) -> str:
    if tool.name is None:
        raise MissingField(f"Missing required parameter: '{at}.name'", f"{at}.name")
    return tool.name


def _is_others(tool: Any) -> bool:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and _KNOWN.fullmatch(kind) is not None
