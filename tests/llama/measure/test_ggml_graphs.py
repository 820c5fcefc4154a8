"""The random weights that operations are timed with."""

from contextlib import closing

import numpy as np

from vram_llm.llama.measure.ggml_graphs import CpuBackend


def test_scales_of_random_weights_are_alike() -> None:
    """ggml looks halves up in a table of 256 KiB: scales of any size would be slower than trained ones."""
    with closing(CpuBackend(2**20)) as backend:
        for first in (0, 1):  # scales begin at even bytes of a block; blocks begin anywhere
            pairs = backend.weights[first : first + 2**20].view(np.float16)
            values = np.unique(np.abs(pairs))
            assert 2**-7 <= values[0] <= values[-1] < 2**-3
            assert len(values) <= 256
