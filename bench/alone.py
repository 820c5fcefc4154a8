"""llama.cpp without a server under the same load: an upper bound for the servers on this machine."""

import time
from collections.abc import Sequence
from pathlib import Path

from bench.load import Prompt
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import Workload
from vram_llm.workflows import detection, planning


class Alone:
    """A model in this process. All prompts are computed at once, and then every step a token of each."""

    def __init__(self, path: Path, n_ctx: int, parallel: int) -> None:
        workload = Workload(n_ctx=n_ctx, parallel=parallel, reserve_bytes=0)
        self._model = LoadedModel(planning.plan(str(path), detection.detect(), workload))

    def rate(self, prompts: Sequence[Prompt], n_tokens: int) -> float:
        """Tokens per second over all, greedy."""
        model, n = self._model, len(prompts)
        rows = [
            model.vocab.tokenize(prompt, add_special=True) if isinstance(prompt, str) else list(prompt)
            for prompt in prompts
        ]
        started = time.perf_counter()
        model.batch.clear()
        last = [model.batch.add(row, 0, slot, n_outputs=1) for slot, row in enumerate(rows)]
        self._decode()
        tokens = [int(model.logits(row).argmax()) for row in last]
        for step in range(n_tokens - 1):
            model.batch.clear()
            model.batch.add_singles(tokens, [len(row) + step for row in rows], range(n), [1] * n)
            self._decode()
            tokens = model.argmax(n)
        seconds = time.perf_counter() - started
        for slot in range(n):
            model.forget(slot)
        return n * n_tokens / seconds

    def _decode(self) -> None:
        if self._model.decode() != 0:
            raise SystemExit("llama.cpp has no room for the load; give a shorter --tokens")
        self._model.wait()
