"""Compares answers that may differ only where rounding decides between two nearly equal logits."""

import numpy as np
import numpy.typing as npt

from tests.engine.harness import forget_all
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import FlashAttention

_EXACT, _FLASH_ATTENTION = 5e-5, 0.06
"""How far rounding may move a logit, as a share of the standard deviation of all: two to three times what was
seen, with weights in float32 and harness.EXACT, and with llama.cpp's defaults.
"""


def assert_same(model: LoadedModel, prompt: tuple[int, ...], alone: list[int], among: list[int]) -> None:
    """The tokens are the same, up to the first whose two best logits are closer than rounding moves them.

    A mix-up of sequences would move logits by their standard deviation.
    """
    assert len(alone) == len(among)
    at = next((i for i, (a, b) in enumerate(zip(alone, among, strict=True)) if a != b), None)
    if at is None:
        return
    logits = _logits_after(model, [*prompt, *alone[:at]])
    is_exact = model.plan.context.flash_attn is FlashAttention.OFF
    rounding = (_EXACT if is_exact else _FLASH_ATTENTION) * float(logits.std())
    second, best = np.sort(logits)[-2:]
    assert best - second <= 2 * rounding, (
        f"differs at token {at}, where the best leads by {best - second:.3g}"
    )


def _logits_after(model: LoadedModel, tokens: list[int]) -> npt.NDArray[np.float32]:
    forget_all(model)
    row = 0
    for start in range(0, len(tokens), model.n_batch):
        model.batch.clear()
        row = model.batch.add(tokens[start : start + model.n_batch], start, 0, n_outputs=1)
        assert model.decode() == 0
    logits = model.logits(row).copy()
    forget_all(model)
    return logits
