from collections.abc import Callable

import psutil
import pytest

from vram_llm.engine import probe
from vram_llm.errors import ModelRefused
from vram_llm.planner.types import HOST, Plan

pytestmark = pytest.mark.process


@pytest.mark.parametrize("wish", [{}, {"n_ctx": 256, "parallel": 40}])
async def test_measure_runs_while_the_engine_is_loaded(
    plan_on_cpu: Callable[..., Plan], wish: dict[str, int]
) -> None:
    seen: list[psutil.Process] = []

    def look(pid: int) -> str:
        seen.append(psutil.Process(pid))
        assert "vram_llm.engine.worker" in seen[0].cmdline()
        return "seen"

    info, looked = await probe.run(plan_on_cpu(**wish), look)
    assert looked == "seen"
    assert list(info.memory) == [HOST]
    assert not seen[0].is_running()


async def test_the_engine_ends_if_measure_fails(plan_on_cpu: Callable[..., Plan]) -> None:
    seen: list[psutil.Process] = []

    def look(pid: int) -> None:
        seen.append(psutil.Process(pid))
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await probe.run(plan_on_cpu(), look)
    assert not seen[0].is_running()


async def test_a_model_that_does_not_load(plan_on_cpu: Callable[..., Plan]) -> None:
    import dataclasses

    plan = plan_on_cpu()
    gone = dataclasses.replace(plan, model=dataclasses.replace(plan.model, path="/nowhere/model.gguf"))
    with pytest.raises(ModelRefused, match=r"model\.gguf"):
        await probe.run(gone, lambda pid: pid)
