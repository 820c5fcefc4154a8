"""The server's end of the process that makes what-if plans."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from vram_llm.errors import EngineDied, RequestError, RequestTimeout
from vram_llm.machine.host import read_host
from vram_llm.planner.types import CompanionKind, Objective, Plan
from vram_llm.server.ui.plan_fields import PlanFields
from vram_llm.stderr_reason import environment
from vram_llm.workflows.what_if.child import PLANNED
from vram_llm.workflows.what_if.order import WhatIfOrder

MAX_SECONDS = 10.0  # for an answer
IDLE_S = 120.0  # without a question; the process is then ended, which frees its memory
_MOST_BYTES = 1 << 22  # of an answer


class PlanningProcess:
    """A process that answers what-if questions about any plans. Use from one event loop.

    The process is started by the first question. Questions wait for each other.
    """

    def __init__(self, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._end_timer: asyncio.TimerHandle | None = None

    def about(self, plan: Plan, notes: tuple[str, ...] = ()) -> "PlanQuestions":
        """Questions about a plan, whose answers have `notes`."""
        return PlanQuestions(self, plan, notes)

    async def carry_out(self, order: WhatIfOrder) -> bytes:
        """The JSON of a PlanReply. Raises RequestError, RequestTimeout, EngineDied."""
        line = msgspec.json.encode(order) + b"\n"
        async with self._turn:
            answer = b""
            try:
                async with asyncio.timeout(self._max_seconds):
                    answer = await self._ask(line)
            except TimeoutError:
                raise RequestTimeout(
                    f"planning took more than {self._max_seconds:g} s; ask for fewer devices"
                ) from None
            except OSError as error:
                raise EngineDied(f"the process for what-if plans could not be used: {error}") from error
            finally:
                if answer:
                    self._end_timer = asyncio.get_running_loop().call_later(IDLE_S, self._kill)
                else:  # it works on, or has ended
                    await self.close()
        if not answer.startswith(PLANNED):
            raise RequestError(msgspec.json.decode(answer[1:], type=str))
        return answer[1:]

    async def close(self) -> None:
        """End the process."""
        process = self._process
        self._kill()
        if process is not None:
            await process.wait()

    async def _ask(self, line: bytes) -> bytes:
        """The answer's line. Raises OSError, EngineDied."""
        if self._end_timer is not None:
            self._end_timer.cancel()
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vram_llm.workflows.what_if.child",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_MOST_BYTES,
                env=environment(),
                start_new_session=True,  # only the server handles Ctrl+C
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line)
        await process.stdin.drain()
        answer = await process.stdout.readline()
        if not answer.endswith(b"\n"):
            raise EngineDied("the process for what-if plans ended; the log may say why")
        return answer

    def _kill(self) -> None:
        process, self._process = self._process, None
        if self._end_timer is not None:
            self._end_timer.cancel()
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                process.kill()


@dataclass(frozen=True, slots=True)
class PlanQuestions:
    """See server.ui.ports.WhatIfPlanner. `plan` is the served one."""

    process: PlanningProcess
    plan: Plan
    notes: tuple[str, ...] = ()  # of the answers

    @property
    def served(self) -> PlanFields:
        """The served plan's values."""
        return PlanFields.model_validate(
            {
                "n_ctx": self.plan.context.n_ctx,
                "kv_type": self.plan.context.kv_type_k,
                "reserve_bytes": _reserve_bytes(self.plan),
                "objective": self.plan.objective.value,
                "parallel": self.plan.context.parallel,
            }
        )

    @property
    def n_ctx_train(self) -> int | None:
        """The trained length, in tokens."""
        return self.plan.model.context_length

    async def __call__(self, question: PlanFields) -> bytes:
        """The JSON of a PlanReply. Raises RequestError, RequestTimeout, EngineDied."""
        order = order_for(self.plan, question)
        return await self.process.carry_out(msgspec.structs.replace(order, notes=self.notes))


class WhatIfProcess(PlanningProcess):
    """See server.ui.ports.WhatIfPlanner. `plan` gives the plan that is served now."""

    def __init__(self, plan: Callable[[], Plan], max_seconds: float = MAX_SECONDS) -> None:
        super().__init__(max_seconds)
        self._plan = plan

    @property
    def served(self) -> PlanFields:
        """The served plan's values."""
        return self.about(self._plan()).served

    @property
    def n_ctx_train(self) -> int | None:
        """The trained length, in tokens."""
        return self.about(self._plan()).n_ctx_train

    async def __call__(self, question: PlanFields) -> bytes:
        """The JSON of a PlanReply. Raises RequestError, RequestTimeout, EngineDied."""
        return await self.about(self._plan())(question)


def order_for(plan: Plan, question: PlanFields) -> WhatIfOrder:
    """The order for a question about the model of `plan`; what the question leaves open is as in the plan."""
    context, asked = plan.context, question
    return WhatIfOrder(
        model=plan.model.path,
        loras=tuple(each.path for each in plan.companions if each.kind is CompanionKind.LORA),
        rigs=tuple(asked.devices or ()),
        devices=plan.devices,
        host=plan.host or read_host(),
        n_ctx=context.n_ctx if asked.n_ctx is None else asked.n_ctx,
        parallel=asked.parallel or context.parallel,
        kv_type_k=asked.kv_type or context.kv_type_k,
        kv_type_v=asked.kv_type or context.kv_type_v,
        reserve_bytes=_reserve_bytes(plan) if asked.reserve_bytes is None else asked.reserve_bytes,
        objective=Objective(asked.objective or plan.objective),
        flash_attn=context.flash_attn,
        swa_full=context.swa_full,
        rope=context.rope,
        kv_overrides=plan.model.kv_overrides,
        kv_unified=context.kv_unified,
    )


def _reserve_bytes(plan: Plan) -> int:
    """Bytes that the plan keeps free on each device and on the host."""
    if plan.devices:
        return plan.devices[0].reserve_bytes
    return plan.host_reserve_bytes or 0
