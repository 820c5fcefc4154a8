"""Drawing a token from a row of logits, in NumPy.

For temperature, top-k, top-p and min-p alone, it takes a fraction of the time of llama.cpp's samplers, which
build and sort a list of structs over the whole vocabulary (llama-sampler.cpp).
"""

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


_GROUP = 64  # logits whose largest one stands for them in the search for the best


class Draw:
    """Draws by probability. Filters see the logits before the temperature does, as llama.cpp's do."""

    def __init__(self, *, temperature: float, top_p: float, min_p: float, seed: int, top_k: int = 0) -> None:
        self._temperature, self._top_k, self._top_p, self._min_p = temperature, top_k, top_p, min_p
        self._random = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, logits: Logits) -> int:
        """The place in `logits` of what was drawn."""
        places, weights = self.left(logits)
        reached = np.cumsum(weights, dtype=np.float64)
        drawn = int(np.searchsorted(reached, self._random.random() * reached[-1], side="right"))
        drawn = min(drawn, len(reached) - 1)  # the product may round up to the sum
        return drawn if places is None else int(places[drawn])

    def left(self, logits: Logits) -> tuple[Indices | None, Logits]:
        """Places that the filters leave, ascending (None: all), and their weights after the temperature."""
        places = None
        if 0 < self._top_k < len(logits):
            places = largest(logits, self._top_k)
            logits = logits[places]
        relative = logits - logits.max()
        weights = np.exp(relative)
        kept = None if self._top_p >= 1 else nucleus(weights, self._top_p)
        if self._min_p > 0:
            likely = weights >= self._min_p  # the best one's weight is 1
            kept = np.flatnonzero(likely) if kept is None else kept[likely[kept]]
        if kept is not None:
            relative, weights = relative[kept], weights[kept]
            places = kept if places is None else places[kept]
        if self._temperature != 1:
            weights = np.exp(relative / np.float32(self._temperature))
        return places, weights


def largest(logits: Logits, k: int) -> Indices:
    """Places of the `k` largest, ascending; of equal ones the first. `k` is less than their number.

    The k-th largest of the maxima of groups is a lower bound of the k-th largest of all: only what reaches it
    is sorted.
    """
    n_groups = len(logits) // _GROUP
    near = np.arange(len(logits))
    if n_groups > k:
        maxima = logits[: n_groups * _GROUP].reshape(_GROUP, n_groups).max(axis=0)
        near = np.flatnonzero(logits >= np.partition(maxima, n_groups - k)[n_groups - k])
    values = logits[near]
    least = np.partition(values, len(values) - k)[len(values) - k]
    kept = near[values > least]
    ties = near[values == least][: k - len(kept)]
    return np.sort(np.concatenate((kept, ties)))


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
