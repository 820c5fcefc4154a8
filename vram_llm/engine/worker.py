"""The engine process: `python -m vram_llm.engine.worker FD LEVEL`, with one end of a socket pair as FD.

One thread does everything, so that no other holds the interpreter lock while tokens are sampled. Between
steps it reads what has come in; with nothing to do it sleeps in `recv`. It ends when told to, or when
the server's end of the socket is gone.
"""

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING, NoReturn

from vram_llm.engine import wire
from vram_llm.engine.model_info import LoadedMemory, ModelInfo
from vram_llm.engine.request import TokenEvent
from vram_llm.engine.sampling.file_defaults import sampling_of_file
from vram_llm.errors import EngineDied, NotBuilt, RequestError, VramLLMError
from vram_llm.planner.types import CompanionKind

if TYPE_CHECKING:
    from vram_llm.engine.loop import Loop
    from vram_llm.llama.model import LoadedModel

_RECV_BYTES = 1 << 16


class _Stopped(Exception):
    """The server said stop, or is gone."""


class Channel:
    """The engine's end of the socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._has_come = select.poll()
        self._has_come.register(sock, select.POLLIN)

    def send(self, *messages: wire.FromEngine) -> None:
        """Send, waiting for room if the server is behind. Raises _Stopped where it is gone."""
        try:
            self._socket.sendall(b"".join(map(wire.pack, messages)))
        except OSError as error:
            raise _Stopped from error

    @property
    def has_news(self) -> bool:
        """True where something has come in, or the server is gone."""
        return bool(self._has_come.poll(0))  # a quarter of what a recv takes that fails

    def receive(self, *, wait: bool) -> list[wire.ToEngine]:
        """All messages that have come in; with `wait`, at least one.

        Raises _Stopped where one of them is Stop, or the server is gone.
        """
        messages: list[wire.ToEngine] = []
        while True:
            data = self._received(wait=wait and not messages)
            if data is None:
                return messages
            if not data:
                raise _Stopped
            self._buffer += data
            messages += self._whole_messages()
            if any(isinstance(message, wire.Stop) for message in messages):
                raise _Stopped

    def _received(self, *, wait: bool) -> bytes | None:
        """What has come in, b"" where the server is gone; without `wait` None where there is nothing."""
        if not wait and not self.has_news:
            return None
        try:
            return self._socket.recv(_RECV_BYTES)
        except OSError:  # the server died with news of ours unread
            return b""

    def _whole_messages(self) -> list[wire.ToEngine]:
        messages = []
        while len(self._buffer) >= wire.HEADER_BYTES:
            end = wire.HEADER_BYTES + wire.body_length(bytes(self._buffer[: wire.HEADER_BYTES]))
            if len(self._buffer) < end:
                break
            messages.append(wire.decode_to_engine(self._buffer[wire.HEADER_BYTES : end]))
            del self._buffer[:end]
        return messages


def run(channel: Channel) -> None:
    """Load the plan the first message brings, then serve requests until told to stop."""
    start = next(m for m in channel.receive(wait=True) if isinstance(m, wire.Start))

    # here, not above: loading llama.cpp's libraries takes longer than everything else before the load
    from vram_llm.engine.loop import Loop
    from vram_llm.engine.speed_check import Expectation
    from vram_llm.llama.draft_model import load_draft
    from vram_llm.llama.model import LoadedModel

    last, stopped = -1.0, False

    def progress(fraction: float) -> bool:
        nonlocal last, stopped
        try:
            if fraction - last >= 0.01 or fraction == 1:
                last = fraction
                channel.send(wire.Loading(fraction))
            channel.receive(wait=False)
        except _Stopped:  # kept: llama.cpp would not pass an exception on, and may go on after a False
            stopped = True
        return not stopped

    servers: dict[str, list[int]] = {}
    try:
        model = LoadedModel(start.plan, progress, servers)
    except VramLLMError:
        if not stopped:
            raise
    if stopped:
        raise _Stopped
    draft = load_draft(model, servers)
    channel.send(wire.Ready(_info(model, draft, start.model_name)))
    if start.plan.context.pooling is not None:
        _embed(channel, model)
    loop = Loop(model, draft)
    expectation = Expectation(start.plan.speed)
    gc.collect()
    gc.freeze()  # what is here stays: streams would wait whenever it is all looked through
    while True:
        events: list[TokenEvent] = []
        while loop.is_idle and not channel.has_news and model.vocab.note_more():
            pass
        loop.meter.turn.start()
        waits = loop.is_idle
        messages = channel.receive(wait=waits)
        if waits:
            loop.meter.turn.start()
        for message in messages:
            match message:
                case wire.Submit(request):
                    event = loop.submit(request)
                    events += [event] if event is not None else []
                case wire.Cancel(request_id):
                    loop.cancel(request_id)
                case wire.Tokenize(images=images) if images:
                    channel.send(_counted(loop, message))
                case wire.Tokenize() | wire.Detokenize():
                    channel.send(_of_vocabulary(model, message))
        if events:  # before the step, which may take long: streams begin with this
            channel.send(wire.News(events, loop.figures()))
        began = time.perf_counter()
        tick, news = loop.decode_on() or (None, loop.step())
        n_tokens = len(news if tick is None else tick.tokens)
        remark = expectation.after(model.batch.n_rows, n_tokens, time.perf_counter() - began)
        told: list[wire.FromEngine] = [tick] if tick is not None else []
        if news or (tick is not None and tick.ids):  # figures come with every run's first step
            told.append(wire.News(news, loop.figures()))
        if remark is not None:
            told.append(wire.Remark(remark))
        if told:
            channel.send(*told)
        loop.meter.end_turn()


def _embed(channel: Channel, model: "LoadedModel") -> NoReturn:
    """Embed until told to stop."""
    from vram_llm.engine.embedding_loop import Embedder

    embedder = Embedder(model)
    while True:
        for message in channel.receive(wait=embedder.is_idle):
            match message:
                case wire.Embed(request):
                    if (refusal := embedder.submit(request)) is not None:
                        channel.send(refusal)
                case wire.Cancel(request_id):
                    embedder.cancel(request_id)
                case wire.Tokenize() | wire.Detokenize():
                    channel.send(_of_vocabulary(model, message))
        answers = embedder.step() if not embedder.is_idle else []
        for answer in answers:
            channel.send(answer)
        if answers:
            channel.send(wire.News([], embedder.figures()))


def _of_vocabulary(model: "LoadedModel", asked: wire.Tokenize | wire.Detokenize) -> wire.Tokens | wire.Pieces:
    vocab = model.vocab
    if isinstance(asked, wire.Detokenize):
        return wire.Pieces(asked.id, [vocab.spelling(token) for token in asked.tokens])
    special = {"add_special": asked.add_special, "parse_special": asked.parse_special}
    return wire.Tokens(asked.id, vocab.tokenize(asked.text, **special))


def _counted(loop: "Loop", asked: wire.Tokenize) -> wire.Tokens:
    try:
        return wire.Tokens(asked.id, loop.count(asked.text, asked.images, add_special=asked.add_special))
    except RequestError as error:
        return wire.Tokens(asked.id, [], str(error), error.param)


def _info(model: "LoadedModel", draft: "LoadedModel | None", name: str) -> ModelInfo:
    plan = model.plan
    memory: tuple[LoadedMemory, ...] = ()
    draft_memory: tuple[LoadedMemory, ...] = ()
    with contextlib.suppress(NotBuilt):  # then nothing is said of memory, rather than something wrong
        memory = _held(model)
        draft_memory = () if draft is None else _held(draft)
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
        takes_images=model.images is not None,
        adapters=_names(each.path for each in plan.companions if each.kind is CompanionKind.LORA),
        n_embd=model.n_embd,
        vocab_type=model.vocab.kind,
        sampling=sampling_of_file(model.metadata),
        tool_template=model.metadata("tokenizer.chat_template.tool_use"),
    )


def _held(model: "LoadedModel") -> tuple[LoadedMemory, ...]:
    """What llama.cpp holds of a model on each device. Raises NotBuilt."""
    return tuple(
        LoadedMemory(
            id=device,
            weights_bytes=use.weights_bytes,
            context_bytes=use.context_bytes,
            compute_bytes=use.compute_bytes,
        )
        for device, use in model.memory_use().items()
    )


def _names(paths: Iterable[str]) -> tuple[str, ...]:
    """What adapters are called: their files' names without the suffix, told apart by number where equal."""
    names: list[str] = []
    for path in paths:
        stem = PurePath(path).stem
        names.append(stem if stem not in names else f"{stem}-{len(names) + 1}")
    return tuple(names)


def main() -> int:
    """Serve the socket whose descriptor is the first argument; the exit code is the error's, or 0.

    The second is the logging level; what is logged goes to standard error.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when the engine ends
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(
        stream=sys.stderr, level=int(sys.argv[2]), format="%(levelname)s %(name)s: %(message)s"
    )
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        run(channel)
    except _Stopped:
        return 0
    except VramLLMError as error:
        with contextlib.suppress(_Stopped):
            channel.send(wire.Failed(str(error), error.exit_code))
        return error.exit_code
    except MemoryError:
        with contextlib.suppress(_Stopped):
            channel.send(wire.Failed("the engine ran out of memory on the host", EngineDied.exit_code))
        return EngineDied.exit_code
    return 0


if __name__ == "__main__":
    try:
        exit_code = main()
    except BaseException:  # told as ever
        sys.excepthook(*sys.exc_info())
        exit_code = 1
    # not through the interpreter's end: llama.cpp's back ends have crashed while being torn down there, and
    # images that nobody waits for any more would be read first
    sys.stderr.flush()
    os._exit(exit_code)
