"""What clients may send to POST /v1/responses."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from vram_llm.engine.request import Grammar
from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.grammar_fields import of_response_format
from vram_llm.server.schemas import MAX_TOKENS, GenerationFields, Metadata, Reasoning
from vram_llm.server.tools import MAX_TOOLS, Tool, ToolName, ToolUse, tool_use

_NAMED = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "name": {"type": "string"}},
    "required": ["type", "name"],
}
ToolChoice = Annotated[
    Any, WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, _NAMED, {"type": "null"}]})
]
_ITEM = {
    "type": "object",
    "description": (
        "A message, function_call, function_call_output or reasoning item. Messages of a user and outputs of "
        "functions are a string, or a list of input_text and input_image parts"
    ),
}
Input = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _ITEM, "minItems": 1}]})
]
_CAN_INCLUDE = ("reasoning.encrypted_content",)  # there is none: thinking is shown as it is


class FunctionTool(BaseModel):
    """A function that the client will call for the model."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def as_tool(self) -> Tool:
        """The same as chat completions have it."""
        return Tool.model_validate(
            {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_none=True)}
        )


class Format(BaseModel):
    """What form the answer has to have."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["text", "json_object", "json_schema"]


class Text(BaseModel):
    """How the answer is to be written."""

    model_config = ConfigDict(strict=True)

    format: Format | None = None
    verbosity: Literal["medium"] | None = None


class ResponseFields(GenerationFields):
    """POST /v1/responses."""

    not_yet: ClassVar[dict[str, tuple[Any, ...]]] = {
        "top_logprobs": (0,),
        "background": (False,),
        "conversation": (),
        "prompt": (),
        "max_tool_calls": (),
        "truncation": ("disabled",),
        "verbosity": ("medium",),
        "context_management": (),
    }

    input: Input
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    n: Literal[1] | None = None
    max_tokens: None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    text: Text | None = None
    metadata: Metadata | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def use(self) -> ToolUse:
        """What may be called. Raises RequestError."""
        choice = self.tool_choice
        if isinstance(choice, dict) and "name" in choice:
            choice = {"type": choice.get("type"), "function": {"name": choice["name"]}}
        return tool_use([tool.as_tool() for tool in self.tools or ()], choice, self.parallel_tool_calls)

    def grammar_wanted(self) -> Grammar | None:
        """What the answer has to be, by `text.format`. Raises RequestError."""
        wanted = self.text.format.model_dump() if self.text and self.text.format else None
        if wanted is None:
            return super().grammar_wanted()
        grammar = of_response_format({"type": wanted["type"], "json_schema": wanted})
        return None if grammar is None else replace(grammar, field="text.format")

    def check(self) -> None:
        """Raises RequestError for what cannot be sent along."""
        for wanted in self.include or ():
            if wanted not in _CAN_INCLUDE:
                raise NotSupported(f"'{wanted}' cannot be included yet; leave it out", "include")
        if not isinstance(self.input, str | list) or self.input == []:
            raise RequestError("'input' must be a string or a list of items, not an empty one", "input")
