"""Recurrent states that llama.cpp took back by some tokens, as after a rejected draft."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, loaded
from tests.zoo.heads import HEADS
from tests.zoo.loadable import with_vocabulary, write_loadable
from vram_llm.llama.model import LoadedModel

PROMPT, DRAFT, NEXT = (1, *range(300, 320)), (400, 401, 402), 500
N_LEFT = len(PROMPT) + 1  # the prompt and the first drafted token


@pytest.fixture(scope="module")
def model(plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    path: Path = tmp_path_factory.mktemp("hybrid") / "model.gguf"
    plan = plan_on_cpu(write_loadable(with_vocabulary(HEADS["qwen35"]()), path, "F32"), **EXACT)
    with loaded(replace(plan, context=replace(plan.context, n_mtp=3))) as model:
        yield model


def decode(model: LoadedModel, tokens: tuple[int, ...], position: int, slot: int) -> np.ndarray:
    """The logits after the last of `tokens`."""
    model.batch.clear()
    row = model.batch.add(tokens, position, slot, n_outputs=1)
    assert model.decode() == 0
    return model.logits(row).copy()


@pytest.fixture
def expected(model: LoadedModel) -> np.ndarray:
    """The logits after the prompt, the first drafted token and another one."""
    for slot in range(4):
        model.forget(slot)
    logits = decode(model, (*PROMPT, DRAFT[0], NEXT), 0, 3)
    model.forget(3)
    return logits


def rewound(model: LoadedModel) -> None:
    """Slot 0 has read the prompt and the draft, of which the last two tokens were taken back."""
    decode(model, PROMPT, 0, 0)
    decode(model, DRAFT, len(PROMPT), 0)
    assert model.cells.cut(0, N_LEFT)


def test_a_slot_goes_on(model: LoadedModel, expected: np.ndarray) -> None:
    rewound(model)
    np.testing.assert_allclose(decode(model, (NEXT,), N_LEFT, 0), expected, atol=1e-4)


def test_another_slot_shares_them(model: LoadedModel, expected: np.ndarray) -> None:
    """Sequences that share a cell have each their own number of tokens taken back."""
    rewound(model)
    model.cells.share(0, 1, N_LEFT)
    np.testing.assert_allclose(decode(model, (NEXT,), N_LEFT, 1), expected, atol=1e-4)
    np.testing.assert_allclose(decode(model, (NEXT,), N_LEFT, 0), expected, atol=1e-4)


def test_they_are_saved_and_restored(model: LoadedModel, expected: np.ndarray) -> None:
    rewound(model)
    state = model.cells.state(0)
    assert model.cells.restore(2, state)
    np.testing.assert_allclose(decode(model, (NEXT,), N_LEFT, 2), expected, atol=1e-4)


def test_a_slot_that_was_emptied_shares_as_before(model: LoadedModel, expected: np.ndarray) -> None:
    rewound(model)
    model.forget(0)
    decode(model, (*PROMPT, DRAFT[0]), 0, 0)
    model.cells.share(0, 1, N_LEFT)
    np.testing.assert_allclose(decode(model, (NEXT,), N_LEFT, 1), expected, atol=1e-4)
