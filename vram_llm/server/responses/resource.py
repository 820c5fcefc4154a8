"""The response object, as it is sent, streamed and kept."""

from typing import Any, Literal

from pydantic import BaseModel

from vram_llm.server.replies import Usage
from vram_llm.server.responses.fields import ResponseFields

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class InputDetails(BaseModel):
    """Where the input's tokens came from."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    """What the output's tokens were spent on."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Why(BaseModel):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class Failure(BaseModel):
    """Why a response failed."""

    code: str
    message: str


class ResponseObject(BaseModel):
    """The reply to POST /v1/responses. Fields that say what was asked for hold what was obeyed."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    error: Failure | None = None
    incomplete_details: Why | None = None
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
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None
    metadata: dict[str, str]


class Deleted(BaseModel):
    """The reply to DELETE /v1/responses/{id}."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


def begun(fields: ResponseFields, response_id: str, created: int, model: str) -> ResponseObject:
    """A response of which nothing is said yet."""
    reasoning = fields.reasoning
    tools = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": tool.strict,
        }
        for tool in fields.tools or ()
    ]
    return ResponseObject(
        id=response_id,
        created_at=created,
        instructions=fields.instructions,
        max_output_tokens=fields.max_output_tokens,
        model=model,
        parallel_tool_calls=fields.parallel_tool_calls is not False,
        previous_response_id=fields.previous_response_id,
        reasoning={
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        store=fields.store is not False,
        temperature=1.0 if fields.temperature is None else fields.temperature,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        text={"format": fields.text.format.model_dump()}
        if fields.text and fields.text.format
        else {"format": {"type": "text"}},
        tool_choice=fields.tool_choice or "auto",
        tools=tools,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        user=fields.user,
        metadata=fields.metadata or {},
    )


def response_usage(usage: Usage) -> ResponseUsage:
    """A chat's usage under the names it has here."""
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(
            reasoning_tokens=usage.completion_tokens_details.reasoning_tokens
        ),
        total_tokens=usage.total_tokens,
    )
