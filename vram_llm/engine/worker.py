"""The engine process: `python -m vram_llm.engine.worker FD LEVEL [PAGE]`, with one end of a socket pair as FD
and the descriptor of a Heartbeat as PAGE.

One thread computes, so that no other thread holds the interpreter lock while tokens are sampled; others
tokenize long texts, read images and compile grammars, mostly without that lock. Between steps it reads
incoming messages; with nothing to do it sleeps in `recv`. It ends at the server's Stop message, or when the
server's end of the socket is closed; on Linux also, in the middle of a step, when the server is killed.
It is not an RPC worker: those are processes of llama.cpp that offer devices to an engine.
"""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

from vram_llm.engine import wire
from vram_llm.engine.adapters import AdapterInfo
from vram_llm.engine.channel import Channel, ChannelClosed
from vram_llm.engine.heartbeat import Heartbeat
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import DecodeTick, TokenEvent
from vram_llm.engine.sampling.file_defaults import sampling_of_file
from vram_llm.engine.slot_order import SlotOrder
from vram_llm.engine.speed_check import SpeedCheck
from vram_llm.errors import EngineDied, NotBuilt, VramLLMError
from vram_llm.parent_death import end_with_parent
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.types import CompanionKind, Plan

if TYPE_CHECKING:
    from vram_llm.engine.embedding_loop import Embedder
    from vram_llm.engine.inputs.vocabulary_questions import VocabularyQuestions
    from vram_llm.engine.loop import Loop
    from vram_llm.engine.memory_guard import MemoryGuard
    from vram_llm.llama.model import LoadedModel


_STATS_S = 1.0  # most time between the engine's stats while it computes


class Worker:
    """Loads the plan of the first message, then generates or embeds until the channel closes."""

    def __init__(self, channel: Channel, heartbeat: Heartbeat) -> None:
        self._channel = channel
        self._heartbeat = heartbeat
        self._posted: list[wire.FromEngine] = []  # go with the next message
        self._stats_due = 0.0  # when stats are sent, if there are no events before

    def run(self) -> None:
        """Serve until the server stops it. Raises ChannelClosed, and VramLLMError if the model fails."""
        # before the first message: a spare process gets it after it has loaded llama.cpp's libraries
        from vram_llm.engine.embedding_loop import Embedder
        from vram_llm.engine.inputs.text_tokenizer import use_large_stacks
        from vram_llm.engine.loop import Loop

        use_large_stacks()
        gc.collect()
        gc.freeze()  # so that the collection after the load looks at its objects alone
        messages = self._channel.receive(wait=True)
        start = next(message for message in messages if isinstance(message, wire.Start))

        model, draft = self._load(start.plan, start.extra_buffers)
        for each in filter(None, (model, draft)):
            each.note_batch = self._heartbeat.note_batch
        if model.mtp_head is not None:
            model.mtp_head.note_batch = self._heartbeat.note_batch
        self._channel.send(wire.Ready(_model_info(model, draft, start.model_name)))
        if start.plan.context.pooling is None:
            self._generate(Loop(model, draft, self._channel.send, self._posted.append), model)
        else:
            self._embed(Embedder(model), model)

    # -- loading ---------------------------------------------------------------------------------

    def _load(self, plan: Plan, extra_buffers: bool) -> "tuple[LoadedModel, LoadedModel | None]":
        """The plan's model, and its draft model if it has one. Raises ChannelClosed, VramLLMError."""
        from vram_llm.llama.load_draft_model import load_draft
        from vram_llm.llama.model import LoadedModel

        progress = _LoadProgress(self._channel)
        servers: dict[str, list[int]] = {}
        try:
            model = LoadedModel(plan, progress, servers, extra_buffers=extra_buffers)
        except VramLLMError:
            if not progress.is_closed:
                raise
        if progress.is_closed:
            raise ChannelClosed
        return model, load_draft(model, servers)

    # -- generating ------------------------------------------------------------------------------

    def _generate(self, loop: "Loop", model: "LoadedModel") -> None:
        from vram_llm.engine.inputs.vocabulary_questions import VocabularyQuestions
        from vram_llm.engine.memory_readings import LatestReadings, free_memory

        speed_check = SpeedCheck(model.plan.speed)
        questions = VocabularyQuestions(model.vocab, loop.threads, self._channel.send, loop.count_tokens)
        guard = loop.memory_guard(readings=LatestReadings(lambda: free_memory(model)))
        self._channel.while_idle = lambda: self._use_idle_time(guard, model)
        gc.collect()
        gc.freeze()  # objects made so far live on: streams would wait for each full collection of them
        channel, is_idle, is_checked = self._channel, True, False
        while True:
            if is_idle:
                loop.recorder.end_work()
                messages = channel.receive(wait=True)
                loop.recorder.begin_work()
                self._handle(messages, loop, questions)
            elif channel.poll(0):
                self._handle(channel.receive(wait=False), loop, questions)
            began = time.perf_counter()
            tick, events = loop.step()
            now = time.perf_counter()
            if tick is None or events or now > self._stats_due:
                self._send_events(tick, events, loop, now)
                self._heartbeat.beat()
                self._look_at_memory(guard)
                is_idle = loop.is_idle
            else:  # most steps
                channel.send(tick)
            if not is_checked:
                n_tokens = len(events if tick is None else tick.tokens)
                is_checked = self._check_speed(speed_check, model, n_tokens, now - began)

    def _use_idle_time(self, guard: "MemoryGuard", model: "LoadedModel") -> None:
        """Look at the memory, and at the vocabulary until a message comes: not before the first request."""
        self._look_at_memory(guard)
        while not self._channel.poll(0) and model.vocab.note_more():
            pass

    def _look_at_memory(self, guard: "MemoryGuard") -> None:
        if (warning := guard.look()) is not None:
            self._channel.send(wire.MemoryWarning(warning))

    def _handle(self, messages: list[wire.ToEngine], loop: "Loop", questions: "VocabularyQuestions") -> None:
        """Answer messages or pass them to the loop, and send its events before the next step."""
        events: list[TokenEvent] = []
        is_cancelled = False
        for message in messages:
            match message:
                case wire.Submit(request):
                    event = loop.submit(request)
                    events += [event] if event is not None else []
                case wire.Cancel(request_id):
                    questions.cancel(request_id)
                    loop.slot_actions.cancel(request_id)
                    loop.cancel(request_id)
                    is_cancelled = True
                case SlotOrder():
                    loop.slot_actions.add(message)
                case wire.Finish(request_id):
                    events.append(loop.finish(request_id))
                case wire.Tokenize() | wire.Detokenize():
                    questions.ask(message)
        if events or is_cancelled:  # perhaps no step follows, whose stats would count one request fewer
            self._channel.send(wire.StepEvents(events, loop.stats()))
            loop.slot_actions.report()

    def _send_events(
        self, tick: DecodeTick | None, events: list[TokenEvent], loop: "Loop", now: float
    ) -> None:
        """Send the results of a step, and the engine's stats with events, and else once in _STATS_S."""
        messages: list[wire.FromEngine] = [tick] if tick is not None else []
        if events or now > self._stats_due:
            self._stats_due = now + _STATS_S
            messages.append(wire.StepEvents(events, loop.stats()))
        messages += self._posted
        self._posted.clear()
        if messages:
            self._channel.send(*messages)

    def _check_speed(
        self, speed_check: SpeedCheck, model: "LoadedModel", n_tokens: int, seconds: float
    ) -> bool:
        """Count a step, and send the comparison with the plan once there is one; True if it is over."""
        notice = speed_check.observe(model.batch.n_rows, n_tokens, seconds)
        if notice is not None:
            self._channel.send(wire.Notice(notice))
        return speed_check.is_over

    # -- embedding -------------------------------------------------------------------------------

    def _embed(self, embedder: "Embedder", model: "LoadedModel") -> None:
        from vram_llm.engine.inputs.vocabulary_questions import VocabularyQuestions

        questions = VocabularyQuestions(model.vocab, embedder.threads, self._channel.send)
        while True:
            for message in self._channel.receive(wait=embedder.is_idle):
                self._handle_embedding(message, embedder, questions)
            answers = embedder.step() if not embedder.is_idle else []
            for answer in answers:
                self._channel.send(answer)
            if answers:
                self._channel.send(wire.StepEvents([], embedder.stats()))

    def _handle_embedding(
        self, message: wire.ToEngine, embedder: "Embedder", questions: "VocabularyQuestions"
    ) -> None:
        match message:
            case wire.Embed(request):
                if (refusal := embedder.submit(request)) is not None:
                    self._channel.send(refusal)
            case wire.Cancel(request_id):
                questions.cancel(request_id)
                embedder.cancel(request_id)
            case wire.Tokenize() | wire.Detokenize():
                questions.ask(message)


class _LoadProgress:
    """llama.cpp's progress callback: reports each per cent, and gives up once the channel is closed.

    `is_closed` remembers that: llama.cpp passes no exception on, and may continue after a False.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._last = -1.0
        self.is_closed = False

    def __call__(self, fraction: float) -> bool:
        try:
            if fraction - self._last >= 0.01 or fraction == 1:
                self._last = fraction
                self._channel.send(wire.Loading(fraction))
            self._channel.receive(wait=False)
        except ChannelClosed:
            self.is_closed = True
        return not self.is_closed


def _model_info(model: "LoadedModel", draft: "LoadedModel | None", name: str) -> ModelInfo:
    from vram_llm.engine.inputs.tokenize import max_prompt_bytes

    plan = model.plan
    loras = [companion for companion in plan.companions if companion.kind is CompanionKind.LORA]
    memory: dict[str, MemoryUse] = {}
    draft_memory: dict[str, MemoryUse] = {}
    with contextlib.suppress(NotBuilt):  # this build does not report memory
        memory = model.memory_use()
        draft_memory = {} if draft is None else draft.memory_use()
    return ModelInfo(
        name=name,
        path=plan.model.path,
        architecture=plan.model.architecture,
        parameters=model.n_params,
        size_bytes=model.size_bytes,
        n_vocab=model.vocab.n_tokens,
        n_ctx=model.n_ctx_seq,
        n_ctx_train=model.n_ctx_train,
        parallel=plan.context.parallel,
        chat_template=model.metadata("tokenizer.chat_template"),
        bos_token=model.vocab.text_of(model.vocab.bos),
        eos_token=model.vocab.text_of(model.vocab.eos),
        created=int(time.time()),
        memory=memory,
        draft_memory=draft_memory,
        pooling=plan.context.pooling,
        n_pooled=model.n_pooled,
        takes_images=model.images is not None and model.images.takes_images,
        takes_audio=model.images is not None and model.images.takes_audio,
        adapters=_adapter_names(lora.path for lora in loras),
        adapter_files=tuple(
            AdapterInfo(
                path=lora.path,
                scale=lora.scale,
                task_name=model.adapter_metadata(i, "adapter.lora.task_name"),
                prompt_prefix=model.adapter_metadata(i, "adapter.lora.prompt_prefix"),
            )
            for i, lora in enumerate(loras)
        ),
        n_embd=model.n_embd,
        vocab_type=model.vocab.kind,
        max_prompt_bytes=max_prompt_bytes(model.vocab, model.n_ctx_seq),
        sampling=sampling_of_file(model.metadata),
        quantization=plan.model.quantization,
        fim=model.vocab.fim,
        ends=tuple(sorted(model.vocab.ends)),
        tool_template=model.metadata("tokenizer.chat_template.tool_use"),
    )


def _adapter_names(paths: Iterable[str]) -> tuple[str, ...]:
    """Names of adapters: their files' names without the suffix, numbered if they are equal."""
    names: list[str] = []
    for path in paths:
        stem = PurePath(path).stem
        names.append(stem if stem not in names else f"{stem}-{len(names) + 1}")
    return tuple(names)


def main() -> int:
    """Serve the socket whose descriptor is the first argument; the exit code is the error's, or 0.

    The second argument is the logging level; the log goes to standard error. The third is the heartbeat's.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when the engine ends
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(
        stream=sys.stderr, level=int(sys.argv[2]), format="%(levelname)s %(name)s: %(message)s"
    )
    end_with_parent()  # in a long step nobody looks at the closed socket
    heartbeat = Heartbeat(int(sys.argv[3]) if len(sys.argv) > 3 else None)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])), heartbeat.beat)
    try:
        Worker(channel, heartbeat).run()
    except ChannelClosed:
        return 0
    except VramLLMError as error:
        with contextlib.suppress(ChannelClosed):
            channel.send(wire.Failed(str(error), error.exit_code))
        return error.exit_code
    except MemoryError:
        with contextlib.suppress(ChannelClosed):
            channel.send(wire.Failed("the engine ran out of memory on the host", EngineDied.exit_code))
        return EngineDied.exit_code
    return 0


if __name__ == "__main__":
    try:
        exit_code = main()
    except BaseException:  # printed as the interpreter would
        sys.excepthook(*sys.exc_info())
        exit_code = 1
    # not through the interpreter's end: llama.cpp's back ends have crashed while being torn down there, and
    # the thread that reads images would first finish those of cancelled requests
    sys.stderr.flush()
    os._exit(exit_code)
