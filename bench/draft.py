"""The speed of one stream with and without a draft model, which often agrees or never does.

    python -m bench.draft [--tokens 192] [--rounds 5] [--threads N]

The model is a random-weight llama of about 100 million parameters in F32 on the CPU. There a step is mostly
reading, as on cards, and a further row costs little. Only the first two of its 16 layers change its answer
much. The draft models have two layers: the same two, or others. Temperature 0.1 makes random logits like a
trained model's: mostly certain, sometimes not. Prompt lookup is always on. Each figure is the median of the
rounds' ratios.
"""

import argparse
import random
import statistics
import tempfile
from pathlib import Path

import gguf

from bench.lookup import finish
from tools.random_model import write_llama
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.llama.load_draft_model import load_draft
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import Serving, Workload
from vram_llm.workflows import detection, planning

N_PROMPT, N_LAYERS, N_DRAFT_LAYERS, N_VOCAB = 64, 16, 2, 4000


def models(folder: Path) -> dict[str, Path]:
    """The files of the model and its drafts."""

    def write(name: str, n_layers: int, seed: int, faint_from: int | None = None) -> Path:
        return write_llama(
            folder / f"{name}.gguf", n_embd=768, n_ff=(2048,) * n_layers, n_head=12, n_head_kv=4,
            n_vocab=N_VOCAB, quant=gguf.GGMLQuantizationType.F32, seed=seed, faint_from=faint_from,
            faintness=0.03,
        )  # fmt: skip

    return {
        "model": write("model", N_LAYERS, 7, N_DRAFT_LAYERS),
        "agrees": write("agrees", N_DRAFT_LAYERS, 7),
        "useless": write("useless", N_DRAFT_LAYERS, 8),
    }


def answer(loop: Loop, n_tokens: int, seed: int) -> float:
    """Seconds from the first token to the last."""
    pick = random.Random(seed)
    prompt = (1, *(pick.randrange(300, N_VOCAB) for _ in range(N_PROMPT)))
    sampling = SamplingParams(temperature=0.1, seed=seed)
    request = Request(id="r", prompt=prompt, max_tokens=n_tokens, ignore_eos=True, sampling=sampling)
    if loop.submit(request) is not None:
        raise SystemExit("the engine refused the request")
    return finish(loop)


def load(paths: dict[str, Path], draft: str | None, threads: int | None) -> Loop:
    """The engine with a draft model or without one."""
    wish = Workload(
        n_ctx=2048, parallel=1, reserve_bytes=0, draft=None if draft is None else str(paths[draft]),
        n_threads=threads, serving=Serving(cache_reuse=0),
    )  # fmt: skip
    model = LoadedModel(planning.plan(str(paths["model"]), detection.detect(), wish))
    return Loop(model, load_draft(model, {}))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = models(Path(folder))
        loops = {name: load(paths, name, args.threads) for name in (None, "agrees", "useless")}
        for loop in loops.values():
            answer(loop, 32, 1)  # warm the caches, and measure the cost of rows
        before = {name: loop.stats() for name, loop in loops.items()}
        ratios: dict[str, list[float]] = {"agrees": [], "useless": []}
        for i in range(args.rounds):
            order = list(loops) if i % 2 else list(loops)[::-1]
            seconds = {name: answer(loops[name], args.tokens, 100 + i) for name in order}
            for name, found in ratios.items():
                found.append(seconds[None] / seconds[name])
        for name, found in ratios.items():
            after, then = loops[name].stats(), before[name]
            n_drafted = after.n_model_drafted_tokens - then.n_model_drafted_tokens
            n_accepted = after.n_model_accepted_tokens - then.n_model_accepted_tokens
            listed = ", ".join(f"{ratio:.2f}" for ratio in found)
            print(
                f"{name:<8} {statistics.median(found):5.2f} times as fast with it   (rounds: {listed})\n"
                f"{'':<8} of {args.rounds * args.tokens} tokens, {n_drafted} drafted, {n_accepted} accepted",
                flush=True,
            )


if __name__ == "__main__":
    main()
