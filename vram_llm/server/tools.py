"""Tools that a client offers, and how they may be used.

Three APIs declare tools in three forms. Each becomes an OfferedTool; `resolve_tool_use` makes a ToolUse of
them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.errors import RequestError
from vram_llm.server.client_fields import TOOL_IGNORED
from vram_llm.server.custom_tools import TEXT_PARAMETERS, text_grammar, text_parameters
from vram_llm.server.errors import MissingField
from vram_llm.server.known_fields import Fields
from vram_llm.server.tool_choice import ParsedToolChoice, parse_tool_choice

MAX_TOOLS = 4096  # about the number that a prompt of a million tokens can show
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]+$", max_length=128)]
_OPEN = ("anyOf", "oneOf", "allOf", "$ref", "additionalProperties", "patternProperties", "propertyNames")


class Function(Fields):
    """A function that the client runs for the model. `parameters` is a JSON schema of an object."""

    ignored: ClassVar[frozenset[str]] = TOOL_IGNORED

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Custom(Fields):
    """A tool that takes one text. `format` may be a grammar for that text."""

    ignored: ClassVar[frozenset[str]] = TOOL_IGNORED

    name: ToolName
    description: str | None = None
    format: dict[str, Any] | None = None


class Tool(Fields):
    """A tool as chat completions declare it."""

    ignored: ClassVar[frozenset[str]] = TOOL_IGNORED

    type: Literal["function", "custom"]
    function: Function | None = None
    custom: Custom | None = None

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, value: Any) -> Any:
        """Accepts the responses' form too: some clients send one form to both."""
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in ("function", "custom") or kind in value or "name" not in value:
            return value
        return {"type": kind, kind: {name: own for name, own in value.items() if name != "type"}}

    def offer(self, at: str) -> "OfferedTool":
        """The tool at the place `at`. Raises RequestError."""
        if self.type == "custom":
            if self.custom is None:
                raise MissingField(f"Missing required parameter: '{at}.custom'", f"{at}.custom")
            own = self.custom
            return custom_tool_offer(own.name, own.description, own.format, f"{at}.custom")
        if self.function is None:
            raise MissingField(f"Missing required parameter: '{at}.function'", f"{at}.function")
        function = self.function
        return OfferedTool(
            function.name,
            function.description or "",
            function.parameters or {},
            strict=bool(function.strict),
        )


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool as the model sees it. A tool with `takes_text` has the one parameter `input`.

    `text_grammar` is the grammar of that text, if it has one.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False
    takes_text: bool = False
    text_grammar: Grammar | None = None

    def shown(self) -> dict[str, Any]:
        """The tool in the form of chat templates. No other field of the client's reaches a prompt."""
        parameters = dict(self.parameters) or {"type": "object", "properties": {}}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments. A function without parameters takes an empty object."""
        empty = self.parameters.get("properties", None if self.parameters else {}) == {}
        if empty and not any(key in self.parameters for key in _OPEN):
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return dict(self.parameters)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools and calls that an answer may use. `tools` are in the form of chat templates."""

    tools: tuple[dict[str, Any], ...] = ()
    must_call: bool = False
    only: str | None = None  # the tool that must be called
    parallel: bool = True
    schemas: dict[str, dict[str, Any]] | None = None  # argument schemas by tool; None without tools
    strict: frozenset[str] = frozenset()  # tools whose arguments must match their schema
    takes_text: frozenset[str] = frozenset()  # tools with the one parameter `input`
    text_grammars: Mapping[str, Grammar] = field(default_factory=dict)  # grammars of that input by tool

    @property
    def written(self) -> tuple[str, Grammar] | None:
        """The tool whose text must be the whole answer, and the grammar of that text."""
        names = [tool["function"]["name"] for tool in self.tools]
        only = names[0] if self.must_call and len(names) == 1 else self.only
        grammar = self.text_grammars.get(only or "")
        return None if only is None or grammar is None else (only, grammar)


def custom_tool_offer(
    name: str, description: str | None, form: dict[str, Any] | None, at: str
) -> OfferedTool:
    """A tool that takes one text, of the format `form`. Raises RequestError if `form` is invalid."""
    grammar = text_grammar(form, f"{at}.format")
    return OfferedTool(
        name,
        description or "",
        TEXT_PARAMETERS if grammar is None else text_parameters(grammar),
        strict=grammar is not None and grammar.kind is GrammarKind.REGEX,  # the schema's pattern
        takes_text=True,
        text_grammar=grammar,
    )


def tool_use(tools: list[Tool] | None, choice: Any, parallel: bool | None) -> ToolUse:
    """The use of tools that a chat completion asks for. Raises RequestError."""
    offers = [tool.offer(f"tools[{i}]") for i, tool in enumerate(tools or ())]
    return resolve_tool_use(offers, parse_tool_choice(choice), parallel)


def resolve_tool_use(
    offers: Iterable[OfferedTool], choice: ParsedToolChoice, parallel: bool | None
) -> ToolUse:
    """Check `choice` against the offers. Mode "none" hides the tools. Raises RequestError."""
    known = _distinct(offers)
    only = choice.only
    for name in (only, *(choice.allowed or ())):
        if name is not None and name not in known:
            raise RequestError(f"'tool_choice' names '{name}', which is not among the 'tools'", "tool_choice")
    if choice.allowed is not None:
        known = {name: known[name] for name in known if name in choice.allowed}
    must_call = only is not None or choice.mode == "required"
    if must_call and not known:
        raise RequestError("'tool_choice' asks for a call, and there are no 'tools'", "tool_choice")
    if choice.mode == "none":
        known = {}
    return ToolUse(
        tools=tuple(offer.shown() for offer in known.values()),
        must_call=must_call,
        only=only,
        parallel=parallel is not False,
        schemas={name: offer.schema() for name, offer in known.items()} or None,
        strict=frozenset(name for name, offer in known.items() if offer.strict),
        takes_text=frozenset(name for name, offer in known.items() if offer.takes_text),
        text_grammars={n: offer.text_grammar for n, offer in known.items() if offer.text_grammar is not None},
    )


def _distinct(offers: Iterable[OfferedTool]) -> dict[str, OfferedTool]:
    """Offers by name. Equal offers count once."""
    known: dict[str, OfferedTool] = {}
    for offer in offers:
        if known.setdefault(offer.name, offer) != offer:
            raise RequestError(f"Two different 'tools' are called '{offer.name}'", "tools")
    return known
