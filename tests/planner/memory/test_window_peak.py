"""Windows of layers that differ in masks and ids alone share a measurement; each peak is its own."""

import random
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import machine, profile_of
from vram_llm.machine.types import DeviceKind
from vram_llm.planner.context import resolve_context
from vram_llm.planner.memory import window_peak as module
from vram_llm.planner.memory.layer_shapes import HYBRID_ORDERS, MicroBatch, OutputShape
from vram_llm.planner.memory.layer_table import LayerTable
from vram_llm.planner.memory.window_peak import GraphInputs, GraphWindow, window_peak
from vram_llm.planner.types import Workload
from vram_llm.units import GIB

N_TOKENS = 512


def windows_of(model: zoo.Model, folder: Path, pick: random.Random) -> list[GraphWindow]:
    profile = profile_of(model, folder)
    n_ctx = pick.choice((4096, 16384))
    context = resolve_context(profile, machine([24 * GIB]), Workload(n_ctx=n_ctx, n_ubatch=N_TOKENS))
    table = LayerTable(profile, context, 2048, {DeviceKind.CUDA})
    output = OutputShape(profile.n_embd, profile.vocab_size, profile.rows_cut)
    windows = []
    for _ in range(40):
        first = pick.randrange(table.n_layers)
        layers = [table.at(i) for i in range(first, min(first + pick.randint(1, 6), table.n_layers))]
        start = GraphInputs(
            stream_bytes=pick.choice((0, profile.n_embd * N_TOKENS * 4)),
            normed_bytes=pick.choice((0, 0, profile.n_embd * N_TOKENS * 4)),
            window_first=pick.random() < 0.5,
            states_first=pick.random() < 0.1,
            has_ids=pick.random() < 0.7,
            masks_late=pick.random() < 0.1,
        )
        masks = (pick.choice((0, n_ctx * N_TOKENS * 2)), pick.choice((0, 2048 * N_TOKENS * 2)))
        needed_later = (pick.random() < 0.6, pick.random() < 0.6)
        batch = MicroBatch(N_TOKENS, 2, 8, pick.random() < 0.7, keeps_experts=True, pipelined=False)
        ends = (output,) if pick.random() < 0.2 else ()
        windows.append(GraphWindow((*layers, *ends), start, masks, needed_later, batch))
    return windows


@pytest.mark.parametrize("name", [*zoo.PUBLISHED, *zoo.SMALL])
def test_a_window_has_its_own_peak(name: str, tmp_path: Path) -> None:
    pick = random.Random(name)
    for window in windows_of((zoo.PUBLISHED | zoo.SMALL)[name](), tmp_path, pick):
        for order in HYBRID_ORDERS:
            assert window_peak(window, order) == module._measured_peak.__wrapped__(window, order)
