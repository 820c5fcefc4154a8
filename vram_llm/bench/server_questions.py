"""Questions to a server before the load: its models, its tokenizer, and one request to try it."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec

from vram_llm.bench.answer_stream import AnswerStream, error_text
from vram_llm.bench.endpoint import Endpoint, LoadPrompt, PromptContent
from vram_llm.bench.outcome import RequestOutcome
from vram_llm.bench.stream_client import StreamClient
from vram_llm.errors import RequestError, ServerUnreachable, VramLLMError

_ANSWER_S = 30.0
_SHOWN = 200  # characters of an answer that is no error of OpenAI's
_KEY_ADVICE = "give its API key with --api-key @FILE or $VRAM_LLM_API_KEY"


class ServerTokenizer:
    """POST /tokenize and /detokenize as llama-server, vLLM and vram-llm have them."""

    def __init__(self, client: StreamClient, model: str) -> None:
        self._client = client
        self._model = model

    async def tokens(self, text: str) -> list[int]:
        """The tokens of a text, without special ones. Raises RequestError, ServerUnreachable."""
        reply = await self._ask(
            "/tokenize",
            {"content": text, "prompt": text, "add_special": False, "add_special_tokens": False},
        )
        return [int(token) for token in reply["tokens"]]

    async def text(self, tokens: list[int]) -> str:
        """The text of tokens. Raises RequestError, ServerUnreachable."""
        reply = await self._ask("/detokenize", {"tokens": tokens})
        return str(reply["content"] if "content" in reply else reply["prompt"])

    async def is_there(self) -> bool:
        """Whether the server has both routes."""
        try:
            return bool(await self.text(await self.tokens("a house")))
        except (RequestError, LookupError, TypeError, ValueError):
            return False

    async def _ask(self, path: str, fields: dict[str, Any]) -> Any:
        body = msgspec.json.encode({"model": self._model, **fields})
        reply = await self._client.request("POST", path, body)
        if reply.status != 200:
            raise RequestError(f"the server answers {reply.status} to {path}: {error_text(reply.body)}")
        return msgspec.json.decode(reply.body)


async def served_models(client: StreamClient) -> list[str]:
    """The ids of GET /v1/models, at least one. Raises ServerUnreachable, RequestError."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            reply = await client.request("GET", "/v1/models")
    except TimeoutError:
        raise ServerUnreachable(f"{client.url}/v1/models does not answer within {_ANSWER_S:.0f} s") from None
    if reply.status in (401, 403):
        raise RequestError(_refused(client.url, error_text(reply.body)))
    try:
        ids = [str(card["id"]) for card in msgspec.json.decode(reply.body)["data"]]
    except (msgspec.MsgspecError, LookupError, TypeError):
        ids = []
    if not ids:
        what = (
            f"answers {reply.status}: {error_text(reply.body)[:_SHOWN]}"
            if reply.status != 200
            else "is empty"
        )
        raise ServerUnreachable(
            f"{client.url}/v1/models {what}; is this the address of an OpenAI endpoint? --model NAME does "
            "without the question"
        )
    return ids


async def try_request(client: StreamClient, endpoint: Endpoint, content: PromptContent) -> RequestOutcome:
    """Ask for one token, which tells whether requests of this form work, and how many tokens the prompt has.

    Raises ServerUnreachable, RequestError with what to change.
    """
    outcome = RequestOutcome(prompt_tokens=0)
    stream = AnswerStream(outcome)
    body = endpoint.body(LoadPrompt(content, None, n_output=1))
    reply = await client.request("POST", endpoint.path, body, stream.feed)
    if reply.status == 200:
        if outcome.error or not stream.is_done:
            raise RequestError(
                f"{client.url}{endpoint.path} sends no stream of a completion: "
                f"{outcome.error or 'it ends without [DONE]'}"
            )
        return outcome
    raise RequestError(await _why(client, endpoint, reply.status, error_text(reply.body)))


async def without_ignore_eos(client: StreamClient, endpoint: Endpoint) -> Endpoint:
    """The endpoint, without `ignore_eos` if the server refuses that field. Raises as `try_request`."""
    try:
        await try_request(client, endpoint, "a")
    except RequestError as error:
        if not endpoint.ignore_eos or "ignore_eos" not in str(error):
            raise
        endpoint = replace(endpoint, ignore_eos=False)
        await try_request(client, endpoint, "a")
    return endpoint


async def _why(client: StreamClient, endpoint: Endpoint, status: int, message: str) -> str:
    if status in (401, 403):
        return _refused(client.url, message)
    if status == 404 or (status == 400 and "model" in message):
        try:
            names = await served_models(client)
        except VramLLMError:
            names = [endpoint.model]  # unknown, and maybe this one
        if endpoint.model not in names:
            return f"{client.url} has no model {endpoint.model!r}; --model {names[0]} is there" + (
                f", and {', '.join(names[1:])}" if names[1:] else ""
            )
    if status == 404:
        return (
            f"{client.url} has no {endpoint.path}; --endpoint names the route, and --backend openai-chat "
            "asks /v1/chat/completions"
        )
    return f"{client.url}{endpoint.path} answers {status}: {message}"


def _refused(url: str, message: str) -> str:
    return f"{url} refuses the request: {message.rstrip('.')}; {_KEY_ADVICE}"
