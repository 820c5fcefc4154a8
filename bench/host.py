"""The parts of a step's time by the engine's own figures: llama.cpp, sampling, and the rest.

    python -m bench.host [--streams 16] [--tokens 200]

The same ~120M-parameter llama as in bench.peers, greedy, through the engine's own process and messages.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

import numpy as np

from tools.random_model import write_120m
from vram_llm.engine.client import EngineClient
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import detection, planning

_PARTS = {
    "llama_s": "in llama.cpp",
    "sampling_s": "sampling",
    "host_s": "in everything else",
}
_IDLE_S = 1.0
_UNTIMED = 20  # tokens of each stream: by then all decode


async def measure(plan: Plan, n_streams: int, n_tokens: int) -> None:
    """Print milliseconds per step, for steps in which all streams decode."""
    engine = EngineClient(plan, "bench")
    engine.start()
    try:
        info = await engine.ready()
        await asyncio.sleep(_IDLE_S)  # the engine looks up how tokens are written, as it does while idle
        random = np.random.default_rng(3)
        prompts = [tuple(map(int, random.integers(3, info.n_vocab, 16))) for _ in range(n_streams)]
        marks = []

        async def answer(i: int) -> None:
            request = Request(
                id=str(i),
                prompt=prompts[i],
                max_tokens=n_tokens,
                ignore_eos=True,
                sampling=SamplingParams(temperature=0),
            )
            n, due = 0, [_UNTIMED, n_tokens - _UNTIMED]
            async for event in engine.generate(request):
                n += len(event.token_ids)
                if i == 0 and due and n >= due[0]:  # an event of prompt lookup has several tokens
                    marks.append(engine.stats)
                    del due[0]

        await asyncio.gather(*(answer(i) for i in range(n_streams)))
    finally:
        await engine.stop()
    first, last = marks
    n_steps = last.n_steps - first.n_steps
    n_tokens = last.n_generated_tokens - first.n_generated_tokens
    print(f"{n_streams} streams, {n_steps} steps of {n_tokens / n_steps:.1f} tokens")
    for name, what in _PARTS.items():
        each_ms = (getattr(last, name) - getattr(first, name)) / n_steps * 1000
        print(f"{each_ms:8.3f} ms a step {what}")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_120m(Path(folder) / "120m-Q8_0.gguf")
        workload = Workload(n_ctx=8192, parallel=args.streams, reserve_bytes=0)
        plan = planning.plan(str(path), detection.detect(), workload)
        asyncio.run(measure(plan, args.streams, args.tokens))


if __name__ == "__main__":
    main()
