"""What clients may send to POST /v1/messages."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.schemas import MAX_STOPS, MAX_TOKENS, GenerationFields
from vram_llm.server.tools import MAX_TOOLS, Tool, ToolName, ToolUse, tool_use

_BLOCK = {
    "type": "object",
    "description": "A text, image, tool_use, tool_result, thinking or redacted_thinking block",
}
_BLOCKS = {"anyOf": [{"type": "string"}, {"type": "array", "items": _BLOCK}]}
Blocks = Annotated[Any, WithJsonSchema(_BLOCKS)]
System = Annotated[Any, WithJsonSchema({"anyOf": [*_BLOCKS["anyOf"], {"type": "null"}]})]


class Said(BaseModel):
    """One message: a string, or a list of blocks."""

    model_config = ConfigDict(strict=True)

    role: Literal["user", "assistant"]
    content: Blocks


class ClientTool(BaseModel):
    """A tool that the client runs for the model. `input_schema` is a JSON schema of an object."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None

    def as_tool(self) -> Tool:
        """The same as chat completions have it. Raises NotSupported for Anthropic's own tools."""
        if self.type not in (None, "custom") or self.input_schema is None:
            raise NotSupported(
                f"The tool '{self.name}' is not there: send tools with an input_schema", "tools"
            )
        function = {"name": self.name, "parameters": self.input_schema}
        if self.description is not None:
            function["description"] = self.description
        return Tool.model_validate({"type": "function", "function": function})


class Choice(BaseModel):
    """Whether a tool is to be used, and which."""

    model_config = ConfigDict(strict=True)

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(BaseModel):
    """Whether to think first. Thinking and answer share `max_tokens`; a budget of its own is not enforced."""

    model_config = ConfigDict(strict=True)

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class User(BaseModel):
    """Who asks. It changes nothing here."""

    model_config = ConfigDict(strict=True)

    user_id: str | None = None


class CountFields(GenerationFields):
    """POST /v1/messages/count_tokens."""

    not_yet: ClassVar[dict[str, tuple[Any, ...]]] = {
        "mcp_servers": ([],),
        "container": (),
        "context_management": ({},),
        "output_config": ({},),
        "output_format": (),
    }

    messages: Annotated[list[Said], Field(min_length=1)]
    n: Literal[1] | None = None
    system: System = None
    tools: Annotated[list[ClientTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    thinking: Thinking | None = None
    cache_control: dict[str, Any] | None = None  # prompts are reused without being told to

    def use(self) -> ToolUse:
        """What may be called. Raises RequestError."""
        choice = self.tool_choice or Choice(type="auto")
        if choice.type == "tool" and choice.name is None:
            raise RequestError("'tool_choice' of type 'tool' needs a 'name'", "tool_choice.name")
        as_openai: dict[str, Any] = {
            "auto": "auto",
            "any": "required",
            "none": "none",
            "tool": {"type": "function", "function": {"name": choice.name}},
        }
        tools = [tool.as_tool() for tool in self.tools or ()]
        return tool_use(tools, as_openai[choice.type], not choice.disable_parallel_tool_use)

    @property
    def effort(self) -> str | None:
        """`thinking` as a reasoning effort; None leaves it to the template."""
        if self.thinking is None:
            return None
        return {"enabled": "medium", "disabled": "none", "adaptive": None}[self.thinking.type]


class MessagesFields(CountFields):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    metadata: User | None = None

    def stops(self) -> tuple[str, ...]:
        """The stop strings. Raises RequestError."""
        stops = tuple(self.stop_sequences or ())
        if len(stops) > MAX_STOPS:
            raise RequestError(
                f"'stop_sequences' holds {len(stops)}; {MAX_STOPS} is the most", "stop_sequences"
            )
        return stops
