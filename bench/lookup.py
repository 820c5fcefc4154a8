"""One stream with and without prompt lookup, on repetitive and on random text, side by side.

    python -m bench.lookup [--tokens 192] [--rounds 7]

A random-weight llama of about 120 million parameters at Q8_0 on the CPU, in one process: the same engine with
drafts and without them, in turn, so that a noisy machine harms both. Two loads:

- repetitive: greedy, over a prompt that repeats a passage. A random model has to be led to repeat: the logits
  of the passage's tokens are raised so that it stays among them and soon goes round, as text that is edited,
  quoted or tabulated does. How many drafted tokens stood is printed.
- random: a temperature of 1 over a random prompt. Hardly anything occurs twice.

Each figure is the median over rounds of the ratio within a round. A load's answers with and without drafts
are compared token for token.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tools.random_model import write_120m
from vram_llm import api
from vram_llm.engine.generation import Generation
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.llama.model import LoadedModel
from vram_llm.plan.types import Workload

_draft = Generation.draft


def repetitive(n_tokens: int, seed: int) -> Request:
    """A passage six times over, and a model that keeps to its words."""
    passage = [int(token) for token in np.random.default_rng(seed).integers(300, 32000, 24)]
    sampling = SamplingParams(temperature=0, logit_bias=dict.fromkeys(passage, 8.0))
    return _request((1, *passage * 6), n_tokens, sampling)


def random_text(n_tokens: int, seed: int) -> Request:
    """No order in it."""
    prompt = [int(token) for token in np.random.default_rng(seed).integers(300, 32000, 144)]
    return _request((1, *prompt), n_tokens, SamplingParams(temperature=1.0, seed=seed))


def _request(prompt: tuple[int, ...], n_tokens: int, sampling: SamplingParams) -> Request:
    return Request(id="r", prompt=prompt, max_tokens=n_tokens, ignore_eos=True, sampling=sampling)


def answer(model: LoadedModel, request: Request, *, drafts: bool) -> tuple[float, list[int], Loop]:
    """Seconds from the first token to the last, the tokens, and the loop with its figures."""
    Generation.draft = _draft if drafts else lambda *_: []  # type: ignore[assignment, method-assign]
    loop, tokens, first = Loop(model), [], 0.0
    if loop.submit(request) is not None:
        raise SystemExit("the engine refused the request")
    while not loop.is_idle:
        for event in loop.step():
            first = first or time.perf_counter()
            tokens += event.token_ids
    seconds = time.perf_counter() - first
    for slot in range(model.plan.context.parallel):
        model.forget(slot)
    return seconds, tokens, loop


def compare(
    model: LoadedModel, name: str, make: Callable[[int, int], Request], n_tokens: int, rounds: int
) -> None:
    """Print one load's ratio."""
    ratios, n_same, drafted, accepted = [], 0, 0, 0
    for i in range(rounds):
        request = make(n_tokens, 100 + i)
        order = (False, True) if i % 2 else (True, False)
        runs = {drafts: answer(model, request, drafts=drafts) for drafts in order}
        ratios.append(runs[False][0] / runs[True][0])
        n_same += runs[False][1] == runs[True][1]
        figures = runs[True][2].figures()
        drafted, accepted = drafted + figures.n_drafted_tokens, accepted + figures.n_accepted_tokens
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{name:<11} {statistics.median(ratios):5.2f} times as fast with drafts   (rounds: {each})")
    print(f"{'':<11} {accepted} of {drafted} drafted tokens stood; {n_same} of {rounds} answers are the same")


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
        plan = api.plan(str(path), api.detect(), Workload(n_ctx=2048, parallel=1, reserve_bytes=0))
        model = LoadedModel(plan)
        answer(model, repetitive(16, 1), drafts=True)  # warm the caches
        compare(model, "repetitive", repetitive, args.tokens, args.rounds)
        compare(model, "random", random_text, args.tokens, args.rounds)
        model.close()


if __name__ == "__main__":
    main()
