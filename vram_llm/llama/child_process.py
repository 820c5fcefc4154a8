"""A child process that gets one request and answers in lines of JSON; the last line is the result.

llama.cpp aborts if a device or a worker fails, and that must not end this program.
"""

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Protocol, TypeVar

import msgspec

from vram_llm.errors import BadPlan, EngineDied, ModelRefused, NotBuilt, VramLLMError, WorkerUnreachable
from vram_llm.stderr_reason import environment, last_words

_KINDS = {kind.__name__: kind for kind in (BadPlan, ModelRefused, NotBuilt, WorkerUnreachable)}


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """The error that replaces a result: its type and message."""

    kind: str
    sentence: str


class Progress(msgspec.Struct, frozen=True, tag=True):
    """The part of the work that is done."""

    share: float


class SendMessage(Protocol):
    """Sends messages of a child's work."""

    def __call__(self, message: msgspec.Struct) -> None:
        """Send a message."""


_Request = TypeVar("_Request", bound=msgspec.Struct)
_Result = TypeVar("_Result", bound=msgspec.Struct)


def ask(
    module: str,
    request: msgspec.Struct,
    result: type[_Result],
    what: str,
    silence_s: float,
    on_progress: Callable[[float], None] = lambda _: None,
) -> _Result:
    """The answer of `python -m module` to `request`; `what` begins errors: "X was measured".

    Raises EngineDied if the child ends or sends nothing for `silence_s`, and the child's own error.
    """
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", module]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment()
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended before it read; its output has the reason
                child.stdin.write(msgspec.json.encode(request))
                child.stdin.close()
            for line in _lines(child.stdout, silence_s, what):
                message = msgspec.json.decode(line, type=Refusal | Progress | result)
                if isinstance(message, Progress):
                    on_progress(message.share)
                elif isinstance(message, Refusal):
                    raise _KINDS.get(message.kind, VramLLMError)(message.sentence)
                else:
                    return message  # type: ignore[no-any-return]  # decoded as `result`
            raise EngineDied(f"llama.cpp ended while {what}: {last_words(log)}")
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def answer(kind: type[_Request], work: Callable[[_Request, SendMessage], msgspec.Struct]) -> None:
    """The child's side: read the request, do the work, send the result."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=kind)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries print to standard output, which carries the answer

    def send(message: msgspec.Struct) -> None:
        answers.write(msgspec.json.encode(message) + b"\n")

    try:
        from vram_llm.llama import bindings

        bindings.log_errors_only()
        send(work(request, send))
    except VramLLMError as error:
        send(Refusal(type(error).__name__, str(error)))


def _lines(stream: IO[bytes], silence_s: float, what: str) -> Iterator[bytes]:
    waiting = b""
    deadline = time.monotonic() + silence_s
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(max(deadline - time.monotonic(), 0)):
                raise EngineDied(f"llama.cpp sent nothing for {silence_s:.0f} s while {what}")
            part = os.read(stream.fileno(), 2**16)
            if not part:
                return
            *lines, waiting = (waiting + part).split(b"\n")
            if lines:
                deadline = time.monotonic() + silence_s
                yield from lines
