"""Loops with models of three kinds of memory."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, loaded, write_f32
from tests.engine.slots.slot_loop import NewLoop, SlotLoop
from vram_llm.planner.types import Plan, Serving
from vram_llm.units import MIB


@pytest.fixture(scope="module")
def path_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("slots")

    def path_of(kind: str) -> Path:
        path = folder / f"{kind}.gguf"
        return path if path.exists() else write_f32(path, kind)

    return path_of


@pytest.fixture
def new_loop(plan_on_cpu: PlanOnCpu, path_of: Callable[[str], Path]) -> Iterator[NewLoop]:
    """Loads a model of a kind into a new loop; the options are the plan's."""
    with ExitStack() as models:

        def new_loop(kind: str = "llama", **options: Any) -> SlotLoop:
            plan: Plan = plan_on_cpu(
                options.pop("path", None) or path_of(kind),
                **{
                    "n_ctx": 2048, "parallel": 2, "n_batch": 128, "n_ubatch": 64,
                    "serving": Serving(slots_ram_bytes=64 * MIB), **EXACT, **options,
                },
            )  # fmt: skip
            return SlotLoop(models.enter_context(loaded(plan)))

        yield new_loop
