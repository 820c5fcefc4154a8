"""A small random model that is loaded to measure devices with."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from vram_llm.errors import ModelRefused
from vram_llm.llama.random_model import RandomModelShape
from vram_llm.planner.types import Context, Placement
from vram_llm.units import format_bytes

MAX_ROWS = 8  # sequences
N_UBATCH = 512
_CELLS = 256  # a burst stays inside them, so that all steps read the same amount of KV cache
_WARM_STEPS = 2  # the first builds and sends the graph
_LEAST_STEPS = 3
_BURST_S = 0.04  # much longer than the period of a CPU quota


class SampleModel:
    """A random model on the devices that are measured. Call `close` at the end."""

    def __init__(
        self,
        shape: RandomModelShape,
        placement: Placement,
        handles: Sequence[int],
        folder: Path,
        n_threads: int,
    ) -> None:
        """Write it to `folder` and load it; `handles` are ggml's, in the placement's order.

        Raises ModelRefused.
        """
        from vram_llm.llama import bindings as b
        from vram_llm.llama.batch import TokenBatch
        from vram_llm.llama.params import LOAD_WITHOUT_MMAP, ModelParams, context_params

        self.shape = shape
        context = Context(
            n_ctx=2 * N_UBATCH, parallel=MAX_ROWS, kv_type_k="f16", kv_type_v="f16", n_batch=N_UBATCH,
            n_ubatch=N_UBATCH, n_threads=n_threads, use_mmap=False, pipeline_copies=False,
        )  # fmt: skip
        params = ModelParams(placement, context, handles)
        params.struct.load_mode = LOAD_WITHOUT_MMAP
        path = folder / f"{shape.n_embd}-{shape.n_layers}.gguf"
        try:
            shape.write_random(path)
        except OSError as error:
            raise ModelRefused(
                f"a model of {format_bytes(shape.read_bytes)} to measure with cannot be written to "
                f"{folder.parent}: {error.strerror}; set TMPDIR to where there is room"
            ) from error
        self._b, self._params = b, params  # a tensor split reads the shares again at every context
        self._model = b.C.llama_model_load_from_file(os.fsencode(path), params.struct)
        path.unlink()
        if not self._model:
            raise ModelRefused(f"the device will not take a model to measure with: {b.last_errors()}")
        self._ctx = b.C.llama_init_from_model(self._model, context_params(context))
        if not self._ctx:
            b.C.llama_model_free(self._model)
            raise ModelRefused(f"the device will not take a context to measure with: {b.last_errors()}")
        self._memory = b.C.llama_get_memory(self._ctx)
        self._batch = TokenBatch(N_UBATCH)

    def burst(self, rows: int) -> float:
        """Seconds of a decode step of `rows` sequences, one token each: the mean over a burst of them."""
        self._b.C.llama_memory_clear(self._memory, False)
        began, n = 0.0, 0
        for position in range(_CELLS // rows):
            if position == _WARM_STEPS:
                began = time.perf_counter()
            self._batch.clear()
            for sequence in range(rows):
                self._batch.add((sequence,), position, sequence, n_outputs=1)
            self._decode()
            n = position + 1 - _WARM_STEPS
            if n >= _LEAST_STEPS and time.perf_counter() - began > _BURST_S:
                break
        return (time.perf_counter() - began) / n

    def prompt(self, n_tokens: int) -> float:
        """Seconds of a prompt of `n_tokens` in one micro-batch; one before it makes the graph."""
        self._batch.clear()
        self._batch.add(tuple(i % self.shape.n_vocab for i in range(n_tokens)), 0, 0, n_outputs=1)
        began = 0.0
        for _ in range(2):
            self._b.C.llama_memory_clear(self._memory, False)
            began = time.perf_counter()
            self._decode()
        return time.perf_counter() - began

    def _decode(self) -> None:
        if self._b.C.llama_decode(self._ctx, self._batch.struct) != 0:
            raise ModelRefused("llama.cpp could not run a model to measure with")
        self._b.C.llama_synchronize(self._ctx)

    def close(self) -> None:
        """Free the model."""
        self._b.C.llama_free(self._ctx)
        self._b.C.llama_model_free(self._model)
