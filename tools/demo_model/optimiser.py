"""The optimiser: Muon for the layers' matrices, AdamW for the other weights.

Muon (Keller Jordan, 2024, kellerjordan.github.io/posts/muon) makes each matrix' step orthogonal, by five
rounds of a polynomial; a small model learns a text by heart in a fraction of AdamW's steps.
"""

import torch
from torch import Tensor

from tools.demo_model.network import Llama

_POLYNOMIAL = (3.4445, -4.7750, 2.0315)


class Optimiser:
    """Muon and AdamW together, on the gradients of `backward`."""

    def __init__(
        self, model: Llama, *, matrix_rate: float = 0.02, rate: float = 0.003, decay: float = 0.05
    ) -> None:
        self._matrices = [p for p in model.blk.parameters() if p.ndim == 2]
        self._momenta = [torch.zeros_like(p) for p in self._matrices]
        layers = {id(p) for p in self._matrices}
        self._others = [p for p in model.parameters() if id(p) not in layers]
        self._adam = torch.optim.AdamW(self._others, lr=rate, betas=(0.9, 0.98), weight_decay=decay)
        self._matrix_rate, self._rate, self._decay = matrix_rate, rate, decay

    @torch.no_grad()
    def step(self, pace: float) -> None:
        """One step at `pace` times the full rates; the gradients are gone after it."""
        torch.nn.utils.clip_grad_norm_(self._others, 1.0)
        for group in self._adam.param_groups:
            group["lr"] = self._rate * pace
        self._adam.step()
        rate = self._matrix_rate * pace
        for weights, momentum in zip(self._matrices, self._momenta, strict=True):
            if weights.grad is None:
                continue
            momentum.lerp_(weights.grad, 0.05)
            direction = orthogonal(weights.grad.lerp(momentum, 0.95))
            weights.mul_(1 - rate * self._decay)
            weights.add_(direction, alpha=-rate * max(1.0, weights.shape[0] / weights.shape[1]) ** 0.5)
        for weights in (*self._matrices, *self._others):
            weights.grad = None


def orthogonal(matrix: Tensor) -> Tensor:
    """About the orthogonal matrix nearest to `matrix` (Newton-Schulz)."""
    a, b, c = _POLYNOMIAL
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
