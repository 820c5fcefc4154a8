"""Drawing a token from a row of logits, in NumPy.

Where nothing but temperature, top-p and min-p is asked for, this needs a fraction of the time llama.cpp's
samplers take, which build and sort a list of structs over the whole vocabulary (llama-sampler.cpp).
"""

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


class Draw:
    """Draws by probability. Filters see the logits before the temperature does, as llama.cpp's do."""

    def __init__(self, *, temperature: float, top_p: float, min_p: float, seed: int) -> None:
        self._temperature, self._top_p, self._min_p = temperature, top_p, min_p
        self._random = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, logits: Logits) -> int:
        """The place in `logits` of what was drawn."""
        relative = logits - logits.max()
        weights = np.exp(relative)
        kept = None if self._top_p >= 1 else nucleus(weights, self._top_p)
        if self._min_p > 0:
            likely = weights >= self._min_p  # the best one's weight is 1
            kept = np.flatnonzero(likely) if kept is None else kept[likely[kept]]
        if kept is not None:
            relative, weights = relative[kept], weights[kept]
        if self._temperature != 1:
            weights = np.exp(relative / np.float32(self._temperature))
        reached = np.cumsum(weights, dtype=np.float64)
        drawn = int(np.searchsorted(reached, self._random.random() * reached[-1], side="right"))
        drawn = min(drawn, len(reached) - 1)  # the product may round up to the sum
        return drawn if kept is None else int(kept[drawn])


def nucleus(weights: Logits, p: float) -> Indices:
    """The fewest of the largest weights that make up `p` of their sum, at least one; ascending places.

    Weights below (1 - p) of the mean sum to less than (1 - p) of the whole, so those above hold the answer
    and only they are sorted.
    """
    total = weights.sum(dtype=np.float64)
    large = weights[weights >= (1 - p) * total / len(weights)]
    large.sort()
    reached = np.cumsum(large[::-1], dtype=np.float64)
    n = min(int(np.searchsorted(reached, p * total)) + 1, len(reached))
    least = large[len(large) - n]
    kept = np.flatnonzero(weights >= least)
    if len(kept) > n:  # ties with the last one: as many of them as are needed
        ties = np.flatnonzero(weights == least)
        kept = np.setdiff1d(kept, ties[len(ties) - (len(kept) - n) :], assume_unique=True)
    return kept
