"""A process that is started before an engine needs it."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import answer
from tests.engine.harness import Start, engine_processes
from tests.patience import soon, until
from vram_llm.engine.process import SpareProcess
from vram_llm.engine.supervisor import log

pytestmark = pytest.mark.process


@pytest.fixture
async def spare() -> AsyncIterator[SpareProcess]:
    spare = SpareProcess(log)
    yield spare
    await soon(spare.close())


async def test_the_next_engine_takes_the_spare_process(
    start: Start, plan_on_cpu: PlanOnCpu, spare: SpareProcess
) -> None:
    first = start(plan_on_cpu(), processes=spare)
    await soon(first.ready())
    await until(lambda: len(engine_processes()) == 2, "a spare process")
    pids = {process.pid for process in engine_processes()}
    second = start(plan_on_cpu(), processes=spare)
    await soon(second.ready())
    assert {first.pid, second.pid} == pids
    assert len(await answer(second, "r"))

    await until(lambda: len(engine_processes()) == 3, "another one")
    (lost,) = (process for process in engine_processes() if process.pid not in pids)
    lost.kill()
    await until(lambda: len(engine_processes()) == 2, "gone")
    third = start(plan_on_cpu(), processes=spare)
    await soon(third.ready())
    assert third.pid != lost.pid
