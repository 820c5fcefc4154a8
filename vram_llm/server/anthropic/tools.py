"""Tools as Anthropic's clients declare them, before and during a chat."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import ValidationError, model_validator

from vram_llm.errors import RequestError
from vram_llm.server.anthropic.block_fields import check_keys
from vram_llm.server.anthropic.message import AnthropicMessage
from vram_llm.server.client_fields import TOOL_IGNORED
from vram_llm.server.errors import MissingField, NotSupported
from vram_llm.server.known_fields import Fields, check_fields, check_names
from vram_llm.server.tool_choice import ParsedToolChoice
from vram_llm.server.tools import OfferedTool, ToolName, ToolUse, resolve_tool_use

# Anthropic runs these, or the client runs them without a schema for the model.
_KNOWN = re.compile(
    r"(web_search|web_fetch|code_execution|bash|text_editor|computer|computer_toolset|browser_toolset|memory|"
    r"tool_search_tool_regex|tool_search_tool_bm25|advisor|mcp_toolset)(_\d{8})?"
)
_CHANGED = frozenset(
    {"type", "name", "definition", "server_name"}
)  # of the tool in a tool_addition or tool_removal


class ClientTool(Fields):
    """A tool that the client runs for the model. `input_schema` is a JSON schema of an object."""

    ignored: ClassVar[frozenset[str]] = TOOL_IGNORED

    name: ToolName | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None
    allowed_callers: list[str] | None = None

    @model_validator(mode="after")
    def _forget(self) -> Self:
        """Drop the other fields of a tool that does not run here."""
        if self.input_schema is None and _KNOWN.fullmatch(self.type or ""):
            self.__pydantic_extra__ = {}
        return self


@dataclass(frozen=True, slots=True)
class SortedAnthropicTools:
    """The tools to offer, and the reasons for leaving others out, by name or type."""

    offers: tuple[OfferedTool, ...]
    left_out: dict[str, str]

    def use(self, choice: ParsedToolChoice, parallel: bool) -> ToolUse:
        """Check `choice` against the tools. Raises RequestError."""
        if choice.only in self.left_out:
            raise NotSupported(f"'tool_choice': {self.left_out[choice.only]}", "tool_choice")
        if choice.mode == "required" and self.left_out and not self.offers:
            raise NotSupported(
                f"'tool_choice' asks for a call: {next(iter(self.left_out.values()))}", "tool_choice"
            )
        return resolve_tool_use(self.offers, choice, parallel)


def sort_tools(tools: Sequence[ClientTool], messages: Sequence[AnthropicMessage]) -> SortedAnthropicTools:
    """The tools at the end of a chat. Raises RequestError naming the path."""
    offers = {f"tools[{i}]": tool for i, tool in enumerate(tools)}
    places: dict[str | None, list[str]] = {}  # in `offers`, by name
    for place, tool in offers.items():
        places.setdefault(tool.name, []).append(place)
    removed: set[str] = set()
    for at, block in _changes(messages):
        check_keys(block, at)
        own = block.get("tool")
        if not isinstance(own, dict):
            raise RequestError(f"'{at}.tool' must be an object", f"{at}.tool")
        check_names(own, f"{at}.tool", _CHANGED)
        name = str(own.get("name"))
        if block["type"] == "tool_removal":
            removed.add(name)
        elif own.get("type") == "tool_definition":
            at = f"{at}.tool.definition"
            tool = _defined(own.get("definition"), at)
            for place in places.get(tool.name, ()):
                del offers[place]
            offers[at], places[tool.name] = tool, [at]
            removed.discard(tool.name or "")
        else:
            removed.discard(name)
    return _sorted({at: tool for at, tool in offers.items() if tool.name not in removed})


def _sorted(tools: Mapping[str, ClientTool]) -> SortedAnthropicTools:
    offers: list[OfferedTool] = []
    left_out: dict[str, str] = {}
    for at, tool in tools.items():
        kind, name = tool.type or "custom", tool.name or tool.type or ""
        if tool.input_schema is None:
            if not _KNOWN.fullmatch(kind):
                field = f"{at}.type" if kind != "custom" else f"{at}.input_schema"
                raise MissingField(
                    f"'{at}' needs an 'input_schema': tools of type '{kind}' are not run here", field
                )
            left_out[name] = f"'{name}' is a tool of type '{kind}', which this server does not run"
        elif tool.name is None:
            raise MissingField(f"Missing required parameter: '{at}.name'", f"{at}.name")
        elif tool.allowed_callers and "direct" not in tool.allowed_callers:
            left_out[name] = f"'{name}' may only be called by code, which this server does not run"
        else:
            offers.append(
                OfferedTool(name, tool.description or "", tool.input_schema, strict=bool(tool.strict))
            )
    return SortedAnthropicTools(tuple(offers), left_out)


def _defined(value: Any, at: str) -> ClientTool:
    try:
        tool = ClientTool.model_validate(value)
    except ValidationError:
        raise RequestError(f"'{at}' must be a tool with a 'name' and an 'input_schema'", at) from None
    check_fields(tool, at)
    return tool


def _changes(messages: Sequence[AnthropicMessage]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Additions and removals of tools in system messages, with their paths."""
    for i, message in enumerate(messages):
        if message.role == "system" and isinstance(message.content, list):
            for k, block in enumerate(message.content):
                if isinstance(block, dict) and block.get("type") in ("tool_addition", "tool_removal"):
                    yield f"messages[{i}].content[{k}]", block
