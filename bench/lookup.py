"""The speed of one stream with and without prompt lookup, on text that repeats and on text that does not.

    python -m bench.lookup [--tokens 192] [--rounds 7]

A random-weight llama of about 120 million parameters at Q8_0 on the CPU, the same engine with drafts and
without them in turn, so that a noisy machine harms both. Four loads:

- loop: the model's own greedy answer, biased to a few tokens, which soon repeats itself.
- edit: the prompt has a passage of this project's README, and the answer repeats it with every 12th word
  changed, like editing, quoting and filling in tables.
- prose: the text of the README, which repeats itself like prose.
- random: words in random order.

A random model would not write the last three. For them the engine computes and samples as always, and the
sampled token is replaced by the next word of a recorded answer; words become tokens one by one. Each figure
is the median over rounds of the ratio within a round.
"""

import argparse
import random
import re
import statistics
import tempfile
import time
from pathlib import Path
from zlib import crc32

from tools.random_model import write_120m
from vram_llm.engine.generation import Generation
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.engine.sampling.numpy_sampler import Indices
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import Serving, Workload
from vram_llm.workflows import detection, planning

README = Path(__file__).resolve().parents[1] / "README.md"
N_PROMPT = 144
FIRST_WORD, N_WORDS = 300, 31_700  # of the model's tokens

_draft = Generation.draft


class Recorded:
    """A sampler that returns a recorded text, after it has read the logits."""

    is_argmax = False

    def __init__(self, model: LoadedModel, text: list[int]) -> None:
        self._model, self._text = model, iter(text)

    def sample(self, row: int, allowed: Indices | None = None) -> int:
        """The text's next token."""
        self._model.logits(row).argmax()
        return next(self._text)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def words(seed: int) -> list[int]:
    """The README's tokens, from a position that the seed chooses."""
    text = README.read_text(encoding="utf-8")
    tokens = [FIRST_WORD + crc32(word.encode()) % N_WORDS for word in re.findall(r"\w+|[^\w\s]", text)]
    start = random.Random(seed).randrange(len(tokens))
    return (tokens * 2)[start:]


def load(name: str, n_tokens: int, seed: int) -> tuple[list[int], list[int] | None]:
    """A prompt, and the answer if it is a recorded one."""
    pick = random.Random(seed)
    if name == "loop":
        return words(seed)[:N_PROMPT], None
    if name == "random":
        text = [pick.randrange(FIRST_WORD, FIRST_WORD + N_WORDS) for _ in range(N_PROMPT + n_tokens)]
        return text[:N_PROMPT], text[N_PROMPT:]
    text = words(seed)
    if name == "prose":
        return text[:N_PROMPT], text[N_PROMPT : N_PROMPT + n_tokens]
    edited = [pick.randrange(FIRST_WORD, 32_000) if i % 12 == 11 else t for i, t in enumerate(text)]
    return text[:n_tokens], edited[:n_tokens]


def answer(
    loop: Loop, prompt: list[int], recorded: list[int] | None, n_tokens: int, *, drafts: bool
) -> float:
    """Seconds from the first token to the last."""
    Generation.draft = _draft if drafts else lambda *_: []  # type: ignore[method-assign]  # or no drafts
    bias = dict.fromkeys(prompt[:24], 8.0) if recorded is None else {}
    sampling = SamplingParams(temperature=0, logit_bias=bias)
    request = Request(id="r", prompt=(1, *prompt), max_tokens=n_tokens, ignore_eos=True, sampling=sampling)
    if loop.submit(request) is not None:
        raise SystemExit("the engine refused the request")
    if recorded is not None:
        generation = loop._generations["r"]
        generation.sampler = Recorded(loop._model, recorded)  # type: ignore[assignment]  # plays a sampler
    return finish(loop)


def finish(loop: Loop) -> float:
    """Run until the loop is idle. Returns seconds from the first token to the last."""
    n_before, began = loop.stats().n_generated_tokens, 0.0
    while not loop.is_idle:
        loop.step()
        if not began and loop.stats().n_generated_tokens > n_before:
            began = time.perf_counter()
    return time.perf_counter() - began


def compare(loop: Loop, name: str, n_tokens: int, rounds: int) -> None:
    """Print one load's ratio."""
    ratios, before = [], loop.stats()
    for i in range(rounds):
        prompt, recorded = load(name, n_tokens, 100 + i)
        seconds = {
            drafts: answer(loop, prompt, recorded, n_tokens, drafts=drafts)
            for drafts in ((False, True) if i % 2 else (True, False))
        }
        ratios.append(seconds[False] / seconds[True])
    after = loop.stats()
    n_drafted = after.n_drafted_tokens - before.n_drafted_tokens
    n_stood = after.n_accepted_tokens - before.n_accepted_tokens
    listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{name:<7} {statistics.median(ratios):5.2f} times as fast with drafts   (rounds: {listed})")
    print(f"{'':<7} of {rounds * n_tokens} tokens {n_drafted} were drafted and {n_stood} stood", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_120m(Path(folder) / "120m-Q8_0.gguf")
        wish = Workload(n_ctx=2048, parallel=1, reserve_bytes=0, serving=Serving(cache_reuse=0))
        plan = planning.plan(str(path), detection.detect(), wish)
        model = LoadedModel(plan)
        loop = Loop(model)
        answer(loop, *load("loop", 64, 1), 64, drafts=True)  # warm the caches, and measure the cost of rows
        for name in ("loop", "edit", "prose", "random"):
            compare(loop, name, args.tokens, args.rounds)
        model.close()


if __name__ == "__main__":
    main()
