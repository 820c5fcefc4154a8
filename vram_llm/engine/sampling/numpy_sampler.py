"""Sampling a token from a row of logits, in NumPy.

With only temperature, top-k, top-p and min-p it takes a fraction of the time of llama.cpp's samplers, which
build and sort a list of structs over the whole vocabulary (llama-sampler.cpp).
"""

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


_GROUP = 64  # logits; the search for the largest ones looks at the maximum of each group first


class NumpySampler:
    """Draws by probability. Filters come before the temperature, as in llama.cpp."""

    def __init__(self, *, temperature: float, top_p: float, min_p: float, seed: int, top_k: int = 0) -> None:
        self._temperature, self._top_k, self._top_p, self._min_p = temperature, top_k, top_p, min_p
        self._bits = np.random.PCG64(seed)
        self._random = np.random.Generator(self._bits)

    def __call__(self, logits: Logits) -> int:
        """The index in `logits` of the token drawn."""
        indices, weights = self.filtered(logits)
        drawn = self.draw(weights)
        return drawn if indices is None else int(indices[drawn])

    def draw(self, weights: Logits) -> int:
        """The index in `weights` of one drawn in proportion to them."""
        reached = np.cumsum(weights, dtype=np.float64)
        drawn = int(np.searchsorted(reached, self._random.random() * reached[-1], side="right"))
        return min(drawn, len(reached) - 1)  # the product may round up to the sum

    def skip(self, n: int) -> None:
        """Leave out `n` draws."""
        self._bits.advance(n)

    def filtered(self, logits: Logits) -> tuple[Indices | None, Logits]:
        """Indices that pass the filters, ascending (None: all), and their weights after the temperature."""
        indices = None
        if 0 < self._top_k < len(logits):
            indices = top_k_filter(logits, self._top_k)
            logits = logits[indices]
        relative = logits - logits.max()
        weights = np.exp(relative)
        kept = None if self._top_p >= 1 else top_p_filter(weights, self._top_p)
        if self._min_p > 0:
            likely = weights >= self._min_p  # the best one's weight is 1
            kept = np.flatnonzero(likely) if kept is None else kept[likely[kept]]
        if kept is not None:
            relative, weights = relative[kept], weights[kept]
            indices = kept if indices is None else indices[kept]
        if self._temperature != 1:
            weights = np.exp(relative / np.float32(self._temperature))
        return indices, weights


def top_k_filter(logits: Logits, k: int) -> Indices:
    """Indices of the `k` largest logits, ascending; of equal ones the first. There are more than `k` logits.

    The k-th largest of the maxima of groups is a lower bound of the k-th largest of all: only logits that
    reach it are sorted.
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


def top_p_filter(weights: Logits, p: float) -> Indices:
    """Indices of the fewest largest weights that make up `p` of the sum, at least one; ascending.

    Weights below (1 - p) of the mean sum to less than (1 - p) of the whole, so only the
    others are sorted.
    """
    total = weights.sum(dtype=np.float64)
    large = weights[weights >= (1 - p) * total / len(weights)]
    large.sort()
    reached = np.cumsum(large[::-1], dtype=np.float64)
    n = min(int(np.searchsorted(reached, p * total)) + 1, len(reached))
    least = large[len(large) - n]
    kept = np.flatnonzero(weights >= least)
    if len(kept) > n:  # too many are equal to the last one
        ties = np.flatnonzero(weights == least)
        kept = np.setdiff1d(kept, ties[len(ties) - (len(kept) - n) :], assume_unique=True)
    return kept
