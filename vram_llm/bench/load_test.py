"""One load on one server: find the model, make prompts, warm up, send the load, compute the figures."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vram_llm.bench.arrivals import LoadShape
from vram_llm.bench.endpoint import Endpoint, LoadPrompt
from vram_llm.bench.file_prompts import PromptFile, file_prompts
from vram_llm.bench.metrics import LoadMetrics, metrics_of
from vram_llm.bench.outcome import RequestOutcome
from vram_llm.bench.random_prompts import RandomPrompts, random_prompts
from vram_llm.bench.run_load import LoadRun, run_load
from vram_llm.bench.server_questions import ServerTokenizer, served_models, without_ignore_eos
from vram_llm.bench.stream_client import StreamClient
from vram_llm.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTest:
    """The requests to a server. `model` None: its first one. `extra` are further fields of each request."""

    dataset: RandomPrompts | PromptFile
    path: str = "/v1/completions"
    model: str | None = None
    n_prompts: int = 1000
    n_warmups: int = 0
    shape: LoadShape = field(default_factory=LoadShape)
    seed: int = 0
    ignore_eos: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    targets_ms: Mapping[str, float] = field(default_factory=dict)
    """The most milliseconds of ttft, tpot, itl and e2el of a good request."""


@dataclass(frozen=True, slots=True)
class LoadWatch:
    """Functions that a load calls: as a part begins, with its number of requests, and as a request ends."""

    on_stage: Callable[[str, int], None] = lambda _name, _n: None
    on_done: Callable[[RequestOutcome], None] = lambda _outcome: None
    on_note: Callable[[str], None] = lambda _note: None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A measured load."""

    model: str
    run: LoadRun
    metrics: LoadMetrics


class LoadedServer:
    """A server under test. Use `open_server`."""

    def __init__(self, client: StreamClient, endpoint: Endpoint, test: LoadTest, watch: LoadWatch) -> None:
        self.client = client
        self.endpoint = endpoint
        self._test = test
        self._watch = watch

    async def prompts(self, n: int, seed: int) -> Sequence[LoadPrompt]:
        """`n` prompts. Raises ServerUnreachable, RequestError, BadPromptFile."""
        dataset = self._test.dataset
        if isinstance(dataset, RandomPrompts):
            made = await random_prompts(self.client, self.endpoint, dataset, n, seed)
        else:
            tokenizer = ServerTokenizer(self.client, self.endpoint.model)
            there = tokenizer if dataset.is_sharegpt and await tokenizer.is_there() else None
            made = await file_prompts(dataset, there, n, seed)
        if made.note:
            self._watch.on_note(made.note)
        return made.prompts

    async def load(self, prompts: Sequence[LoadPrompt], shape: LoadShape, stage: str) -> LoadResult:
        """Send the prompts, as `run_load` does, and compute the figures. Raises ServerUnreachable."""
        self._watch.on_stage(stage, len(prompts))
        run = await run_load(
            self.client, self.endpoint, prompts, shape, seed=self._test.seed, on_done=self._watch.on_done
        )
        return LoadResult(self.endpoint.model, run, metrics_of(run, self._test.targets_ms))

    async def warm_up(self, prompts: Sequence[LoadPrompt], shape: LoadShape) -> None:
        """Send prompts whose figures nobody needs. Raises RequestError if all fail, CancelledError."""
        if not prompts:
            return
        result = await self.load(prompts, replace(shape, request_rate=float("inf")), "warm-up")
        if result.run.was_interrupted:
            raise asyncio.CancelledError
        errors = [outcome.error for outcome in result.run.outcomes if outcome.error]
        if len(errors) == len(prompts):
            raise RequestError(f"each warm-up request failed: {errors[0]}")


async def open_server(client: StreamClient, test: LoadTest, watch: LoadWatch) -> LoadedServer:
    """Find the model, and try a request. Raises ServerUnreachable, RequestError with what to change."""
    model = test.model or (await served_models(client))[0]
    wanted = Endpoint(path=test.path, model=model, ignore_eos=test.ignore_eos, extra=test.extra)
    endpoint = await without_ignore_eos(client, wanted)
    if endpoint.ignore_eos != wanted.ignore_eos:
        watch.on_note(f"{client.url} refuses ignore_eos, so answers may be shorter than asked for")
    return LoadedServer(client, endpoint, test, watch)


async def run_test(client: StreamClient, test: LoadTest, watch: LoadWatch) -> LoadResult:
    """The whole test. A cancellation during the load ends it early. Raises as `open_server` and `prompts`."""
    server = await open_server(client, test, watch)
    watch.on_stage("prompts", 0)
    prompts = await server.prompts(test.n_prompts + test.n_warmups, test.seed)
    await server.warm_up(prompts[test.n_prompts :], test.shape)
    result = await server.load(prompts[: test.n_prompts], test.shape, "requests")
    if note := other_lengths(result.run, prompts[: test.n_prompts]):
        watch.on_note(note)
    return result


def other_lengths(run: LoadRun, prompts: Sequence[LoadPrompt]) -> str:
    """A sentence about prompts in which the server counted other lengths than they were made with, or ""."""
    if run.was_interrupted:  # outcomes do not match prompts any more
        return ""
    pairs = (
        (prompt.n_tokens, outcome.prompt_tokens)
        for prompt, outcome in zip(prompts, run.outcomes, strict=True)
        if prompt.n_tokens is not None and outcome.is_complete
    )
    off = [counted - wanted for wanted, counted in pairs if counted != wanted]
    if not off:
        return ""
    return f"the server counted other lengths in {len(off)} prompts, by {min(off):+d} to {max(off):+d} tokens"
