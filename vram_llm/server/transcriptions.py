"""POST /v1/audio/transcriptions: the words of an audio file, by a chat with a model that hears.

As llama-server does (server-chat.cpp, convert_transcriptions_to_chatcmpl; common_chat_get_asr_prompt), the
chat is an instruction and the sound. The fields are OpenAI's (openai 3.57:
types/audio/transcription_create_params.py).
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from vram_llm.chat.events import Content
from vram_llm.engine.model_info import ModelInfo
from vram_llm.errors import RequestError
from vram_llm.server.errors import MissingField, NotSupported, WrongModel, error_body
from vram_llm.server.generation import engine_requests, stream_events
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.known_fields import Fields, Neutral, check_fields
from vram_llm.server.multipart import FORM, FormPart
from vram_llm.server.openapi import generation_route
from vram_llm.server.parsed_stream import (
    ChoiceParser,
    ParsedChunk,
    ParsedChunks,
    gather_choices,
    parse_stream,
)
from vram_llm.server.prepare_chat import PreparedChat, TemplateInput, prepare_chat
from vram_llm.server.read_body import read_form
from vram_llm.server.replies import Ending, UsageCounter
from vram_llm.server.routes import RequestRoute
from vram_llm.server.sampling_fields import MAX_TEMPERATURE, Seed
from vram_llm.server.schemas import MAX_TOKENS, GenerationFields
from vram_llm.server.serving_context import ServingContext
from vram_llm.server.sse import EventStream
from vram_llm.server.thinking_fields import ThinkingSettings
from vram_llm.server.tools import ToolUse
from vram_llm.server.validation_errors import as_request_error
from vram_llm.server.worker_threads import prepare_in_thread

_INSTRUCTION = "Transcribe audio to text"
_LFM2_SYSTEM = "Perform ASR."  # LFM2-Audio's; it gets no other instruction
_LFM2_MARK = "<|tool_list_start|>"  # in its template
_TIMED = ("verbose_json", "srt", "vtt", "diarized_json")
_encode = msgspec.json.encode
File = Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]


class TranscriptionFields(Fields):
    """POST /v1/audio/transcriptions: fields of a form, which are all text but for the file."""

    model_config = ConfigDict(extra="allow", strict=False, allow_inf_nan=False)

    not_yet: ClassVar[Neutral] = {
        "include[]": (), "include": (), "timestamp_granularities[]": ("segment",),
        "timestamp_granularities": ("segment",), "chunking_strategy": ("auto",),
        "known_speaker_names[]": (), "known_speaker_references[]": (),
    }  # fmt: skip

    file: File
    model: str | None = None
    prompt: str | None = None
    language: str | None = None
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt", "diarized_json"] | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    stream: bool | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None  # llama-server's
    seed: Seed | None = None


class TranscriptionTokens(BaseModel):
    """Tokens of a transcription, with llama-server's details. Rows of sound are input."""

    type: Literal["tokens"] = "tokens"
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int]


class Transcription(BaseModel):
    """The reply to POST /v1/audio/transcriptions. A `finish_reason` of "length": the text breaks off."""

    text: str
    finish_reason: Ending
    usage: TranscriptionTokens


class TranscriptEvents:
    """Writes a transcription's events."""

    def __init__(self, counter: UsageCounter) -> None:
        self._counter = counter
        self._text = ""
        self._ending: Ending = "stop"

    def opening(self) -> bytes:
        """Nothing: the first event is the first text."""
        return b""

    def event(self, index: int, item: ParsedChunk) -> bytes:
        """A delta for the chunk's text."""
        text = "".join(event.text for event in item.events if isinstance(event, Content))
        self._text += text
        if item.ending is not None:
            self._ending = _ending(item.ending)
            self._counter.add(index, item.token, item.reasoning_tokens)
        return _event({"type": "transcript.text.delta", "delta": text}) if text else b""

    def closing(self) -> bytes:
        """The whole text."""
        whole = _transcription(self._text, self._ending, self._counter)
        return _event({"type": "transcript.text.done", **whole.model_dump()})

    def failure(self, error: Exception) -> bytes:
        """A data line with `error`."""
        return _event(error_body(error))


def transcriptions_router(serving: ServingContext) -> APIRouter:
    """The route that writes down what an audio file says."""
    router = APIRouter(tags=["audio"], route_class=RequestRoute)

    route = generation_route("Transcribe an audio file", TranscriptionFields, Transcription, FORM)
    route["responses"][200]["content"]["text/plain"] = {"schema": {"type": "string"}}

    @router.post("/audio/transcriptions", **route)
    async def transcribe(http: Request) -> Response:
        fields = transcription_fields(await read_form(http))
        info = serving.generation_model(fields.model)
        if not info.takes_audio:
            raise WrongModel(
                f"'{info.name}' does not hear: it is served without a projector of sound (--mmproj)", "model"
            )
        prepared = await prepare_in_thread(_prepare, serving, info, fields)
        sampling = GenerationFields(
            temperature=fields.temperature or 0.0, seed=fields.seed, stream=bool(fields.stream)
        )
        base = prepared.request(f"trans-{uuid4().hex}", fields.max_tokens)
        requests = engine_requests(sampling, base, info, config=serving.config)
        chunks = parse_stream(stream_events(serving.engine, requests), [ChoiceParser(prepared.new_parser())])
        counter, ping_s = UsageCounter(1), serving.config.sse_ping_interval_s
        if fields.stream:
            return EventStream(TranscriptEvents(counter), chunks, ping_s)
        if fields.response_format == "text":
            return JsonReply(_text(chunks, counter), 0, content_type="text/plain; charset=utf-8")
        return JsonReply(_reply(chunks, counter), ping_s)

    return router


def transcription_fields(parts: Sequence[FormPart]) -> TranscriptionFields:
    """The fields of a form. Raises RequestError."""
    given: dict[str, Any] = {}
    for part in parts:
        if part.name in given:
            raise RequestError(f"'{part.name}' is in the form twice", part.name)
        given[part.name] = part.data if part.name == "file" else part.text()
    if "file" not in given:
        raise MissingField("Missing required parameter: 'file'", "file")
    try:
        fields = TranscriptionFields.model_validate({n: value for n, value in given.items() if value != ""})
    except ValidationError as error:
        raise as_request_error(error) from None
    check_fields(fields)
    if fields.response_format in _TIMED:
        raise NotSupported(
            f"'{fields.response_format}' needs the times or speakers of the words, which no model gives; "
            "use a 'response_format' of 'json' or 'text'",
            "response_format",
        )
    return fields


def _prepare(serving: ServingContext, info: ModelInfo, fields: TranscriptionFields) -> PreparedChat:
    """The assistant's turn after the sound, without thinking. Blocks. Raises RequestError."""
    files = serving.request_images(info)
    mark = files.add_audio(fields.file, "file")
    is_lfm2 = _LFM2_MARK in (info.chat_template or "")
    wanted = fields.prompt or ("" if is_lfm2 else _INSTRUCTION)
    if fields.language:
        wanted += f" (language: {fields.language})"
    system = [{"role": "system", "content": _LFM2_SYSTEM}] if is_lfm2 else []
    messages = [*system, {"role": "user", "content": files.joined(filter(None, [wanted.strip(), mark]))}]
    chat = TemplateInput(messages=messages, images=files)
    return prepare_chat(info, chat, ToolUse(), config=serving.config, thinking=ThinkingSettings("none"))


async def _reply(chunks: ParsedChunks, counter: UsageCounter) -> bytes:
    (answer,) = await gather_choices(chunks, counter)
    whole = _transcription(answer.content, _ending(answer.ending), counter)
    return whole.model_dump_json().encode()


async def _text(chunks: ParsedChunks, counter: UsageCounter) -> bytes:
    (answer,) = await gather_choices(chunks, counter)
    return answer.content.strip().encode() + b"\n"


def _transcription(text: str, ending: Ending, counter: UsageCounter) -> Transcription:
    usage = counter.usage()
    return Transcription(
        text=text.strip(),
        finish_reason=ending,
        usage=TranscriptionTokens(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            input_tokens_details={"cached_tokens": usage.prompt_tokens_details.cached_tokens},
        ),
    )


def _ending(ending: str) -> Ending:
    return "length" if ending == "length" else "stop"


def _event(event: dict[str, Any]) -> bytes:
    return b"data: " + _encode(event) + b"\n\n"
