"""The response object: sent, streamed and stored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel

from vram_llm.engine.request import SamplingParams
from vram_llm.server.replies import PRESENT, Usage
from vram_llm.server.responses.fields import ResponseFields
from vram_llm.server.responses.tools import ResponseTool

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class InputDetails(BaseModel):
    """Details of the input's tokens."""

    cached_tokens: int
    cache_write_tokens: int = 0
    dropped_messages: Annotated[int | None, PRESENT] = None  # to fit the context, if that was asked for


class OutputDetails(BaseModel):
    """Details of the output's tokens."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseFailure(BaseModel):
    """Why a response failed."""

    code: str
    message: str


class ResponseObject(BaseModel):
    """The reply to POST /v1/responses. Fields for settings hold the values in use."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None = None
    model: str
    output: list[dict[str, Any]] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None = None
    reasoning: dict[str, Any]
    safety_identifier: str | None = None
    service_tier: Literal["default"] = "default"
    warnings: Annotated[list[str] | None, PRESENT] = None  # tools and items that were left out
    background: Literal[False] = False
    store: bool
    temperature: float
    presence_penalty: float
    frequency_penalty: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    top_logprobs: int = 0
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None
    user: str | None = None
    metadata: dict[str, str]


class DeletedResponse(BaseModel):
    """The reply to DELETE /v1/responses/{id}."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputTokens(BaseModel):
    """The reply to POST /v1/responses/input_tokens."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


def new_response(
    fields: ResponseFields, tools: list[ResponseTool], sampling: SamplingParams, **own: Any
) -> ResponseObject:
    """A response without output. `own`: its id, time, model, truncation and warnings."""
    reasoning, text = fields.reasoning, fields.text
    form = text.format.model_dump() if text and text.format else {"type": "text"}
    verbosity = {"verbosity": text.verbosity} if text and text.verbosity else {}
    return ResponseObject(
        **own,
        instructions=fields.instructions,
        max_output_tokens=fields.max_output_tokens,
        max_tool_calls=fields.max_tool_calls,
        parallel_tool_calls=fields.parallel_tool_calls is not False,
        previous_response_id=fields.previous_response_id,
        reasoning={
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        store=fields.store is not False,
        temperature=sampling.temperature,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        text={"format": form, **verbosity},
        tool_choice=fields.tool_choice or "auto",
        tools=[_described(tool) for tool in tools],
        top_p=sampling.top_p,
        top_logprobs=fields.top_logprobs or 0,
        user=fields.user,
        metadata=fields.metadata or {},
    )


def _described(tool: ResponseTool) -> dict[str, Any]:
    if tool.type == "function":
        names = {"type", "name", "description", "parameters", "strict"}
        return tool.model_dump(include=names)
    if tool.type == "namespace":
        own = {"type": tool.type, "name": tool.name, "description": tool.description or ""}
        return {**own, "tools": [_described(inner) for inner in tool.tools or ()]}
    return tool.model_dump(include={"type", "name", "description", "format"}, exclude_none=True)


def response_usage(usage: Usage) -> ResponseUsage:
    """A chat's usage, with the names of responses."""
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(
            cached_tokens=usage.prompt_tokens_details.cached_tokens,
            dropped_messages=usage.prompt_tokens_details.dropped_messages,
        ),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(
            reasoning_tokens=usage.completion_tokens_details.reasoning_tokens
        ),
        total_tokens=usage.total_tokens,
    )
