"""Compares answers that may differ only where rounding decides between two nearly equal logits."""

import numpy as np
import numpy.typing as npt

from vram_llm.llama.model import LoadedModel


def assert_same(model: LoadedModel, prompt: tuple[int, ...], alone: list[int], among: list[int]) -> None:
    """The tokens are the same, up to the first whose two best logits are closer than rounding moves them.

    Among others, the KV cells of a sequence are in another order, and llama.cpp adds them up in half
    precision. A mix-up of sequences would move logits a hundred times as far.
    """
    assert len(alone) == len(among)
    at = next((i for i, (a, b) in enumerate(zip(alone, among, strict=True)) if a != b), None)
    if at is None:
        return
    ways = [_logits_after(model, [*prompt, *alone[:at]], *way) for way in ((32, 0), (4, 9), (8, 30), (1, 5))]
    rounding = 2 * float(np.ptp(ways, axis=0).max())
    assert rounding < 0.1, "too much for rounding"
    second, best = np.sort(ways[0])[-2:]
    assert best - second <= rounding, f"differs at token {at}, where the best leads by {best - second:.3g}"


def _logits_after(model: LoadedModel, tokens: list[int], chunk: int, beside: int) -> npt.NDArray[np.float32]:
    """The logits after `tokens`, computed `chunk` at a time between `beside` tokens of another sequence.

    The other sequence is forgotten at every second step, so that the KV cells of `tokens` are in no order.
    """
    row = 0
    for slot in range(4):
        model.forget(slot)
    for step, start in enumerate(range(0, len(tokens), chunk)):
        model.batch.clear()
        if step % 2 == 0:
            model.forget(1)
        if beside:
            model.batch.add([9] * beside, step % 2 * beside, 1, n_outputs=0)
        row = model.batch.add(tokens[start : start + chunk], start, 0, n_outputs=1)
        assert model.decode() == 0
    logits = model.logits(row).copy()
    model.forget(0)
    model.forget(1)
    return logits
