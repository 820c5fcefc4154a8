"""The engine process alone, on its end of the socket."""

import dataclasses
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PlanOnCpu
from tests.patience import PATIENCE_S
from vram_llm.engine import wire
from vram_llm.engine.request import Request
from vram_llm.errors import BadPlan
from vram_llm.machine import detect as machines
from vram_llm.machine.types import Source
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import SpeedEstimate, Workload
from vram_llm.workflows import detection

pytestmark = pytest.mark.process


class Engine:
    """An engine process, and the server's end of its socket."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE_S)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vram_llm.engine.worker", str(theirs.fileno()), "30"],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
            )

    def send(self, *messages: wire.ToEngine) -> None:
        """All in one write."""
        self.socket.sendall(b"".join(map(wire.pack, messages)))

    def next(self) -> wire.FromEngine:
        """Its next message that is not about slots. Raises EOFError if it has closed its end."""
        while True:
            body = self._exactly(wire.body_length(self._exactly(wire.HEADER_BYTES)))
            message: wire.FromEngine = wire.decode_from_engine(body)
            if not isinstance(message, wire.SlotStates):
                return message

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def await_ready(self) -> None:
        while not isinstance(self.next(), wire.Ready):
            pass

    def end(self) -> tuple[int, str]:
        """Its exit code and what it wrote to stderr."""
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, stderr.decode()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.socket.close()
    engine.process.kill()
    engine.process.communicate()


def test_a_stop_that_comes_with_the_plan_ends_it_before_the_load(
    engine: Engine, plan_on_cpu: PlanOnCpu
) -> None:
    engine.send(wire.Start(plan_on_cpu(), "tiny"), wire.Stop())
    with pytest.raises(EOFError):
        engine.next()
    assert engine.end() == (0, "")


def test_a_stop_while_it_loads_ends_it(engine: Engine, plan_on_cpu: PlanOnCpu) -> None:
    engine.send(wire.Start(plan_on_cpu(), "tiny"))
    assert isinstance(engine.next(), wire.Loading)
    engine.send(wire.Stop())
    assert engine.end() == (0, "")


@pytest.mark.parametrize("loading", [True, False])
def test_it_ends_with_the_server(engine: Engine, plan_on_cpu: PlanOnCpu, loading: bool) -> None:
    engine.send(wire.Start(plan_on_cpu(), "tiny"))
    if not loading:
        engine.await_ready()
    engine.socket.close()
    assert engine.end() == (0, "")


def test_it_ends_with_a_server_that_dies_with_messages_unread(engine: Engine, plan_on_cpu: PlanOnCpu) -> None:
    """The socket is then reset, not just closed."""
    engine.send(wire.Start(plan_on_cpu(), "tiny"))
    engine.await_ready()
    engine.send(wire.Submit(Request(id="r", prompt=(1, 5), max_tokens=1)))
    assert engine.socket.recv(1, socket.MSG_PEEK)
    engine.socket.close()
    assert engine.end() == (0, "")


def test_it_ends_with_the_server_in_the_middle_of_a_stream(engine: Engine, plan_on_cpu: PlanOnCpu) -> None:
    engine.send(wire.Start(plan_on_cpu(n_ctx=4096), "tiny"))
    engine.await_ready()
    engine.send(wire.Submit(Request(id="endless", prompt=(1, 5), ignore_eos=True)))
    assert isinstance(engine.next(), wire.StepEvents)
    engine.socket.close()
    assert engine.end() == (0, "")


def test_messages_may_come_in_any_pieces(engine: Engine, plan_on_cpu: PlanOnCpu) -> None:
    for byte in wire.pack(wire.Start(plan_on_cpu(), "tiny")):
        engine.socket.sendall(bytes([byte]))
    engine.await_ready()
    request = Request(id="r", prompt=(1, 5), ignore_eos=True, max_tokens=1)
    frames = wire.pack(wire.Submit(request)) + wire.pack(wire.Stop())
    engine.socket.sendall(frames[:30])
    engine.socket.sendall(frames[30:-2])
    news = engine.next()
    assert isinstance(news, wire.StepEvents)
    assert [event.id for event in news.events] == ["r"]
    engine.socket.sendall(frames[-2:])
    assert engine.end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_left_to_the_server(engine: Engine, plan_on_cpu: PlanOnCpu, number: int) -> None:
    engine.send(wire.Start(plan_on_cpu(), "tiny"))
    engine.await_ready()
    engine.process.send_signal(number)
    engine.send(wire.Submit(Request(id="r", prompt=(1, 5), ignore_eos=True, max_tokens=1)))
    assert isinstance(engine.next(), wire.StepEvents)
    engine.send(wire.Stop())
    assert engine.end() == (0, "")


def test_after_a_hundred_tokens_it_reports_its_speed(engine: Engine, plan_on_cpu: PlanOnCpu) -> None:
    plan = plan_on_cpu()
    on_cpu = SpeedEstimate(
        basis=Source.MEASURED, depth=64, step_s=0.001, tokens_per_s=1000, streams=1, streams_step_s=0.001,
        streams_tokens_per_s=1000, streams_basis=Source.MEASURED, prompt_tokens=64,
        prompt_s=None, prompt_tokens_per_s=None, prompt_stage_s=None, prompt_basis=None, devices=(),
    )  # fmt: skip
    engine.send(wire.Start(dataclasses.replace(plan, speed=on_cpu), "tiny"))
    engine.await_ready()
    engine.send(wire.Submit(Request(id="r", prompt=(1, 5, 7), ignore_eos=True, max_tokens=120)))
    messages = [engine.next()]
    while not isinstance(messages[-1], wire.StepEvents) or messages[-1].events[-1].finish_reason is None:
        messages.append(engine.next())
    (remark,) = [each.text for each in messages if isinstance(each, wire.Notice)]
    assert remark.startswith("the first 100 tokens: ")
    assert "1,000.0 expected (measured)" in remark
    engine.send(wire.Stop())
    assert engine.end() == (0, "")


def test_its_last_message_and_exit_code_give_the_reason_of_a_failure(
    engine: Engine, tiny_model: Path
) -> None:
    plan = make_plan(detection.analyze(str(tiny_model)), machines.what_if(["RTX 3090"]), Workload(n_ctx=256))
    engine.send(wire.Start(plan, "tiny"))
    failed = engine.next()
    assert isinstance(failed, wire.Failed)
    assert failed.exit_code == BadPlan.exit_code
    assert "planned for but not in this machine" in failed.message
    assert engine.end() == (BadPlan.exit_code, "")
