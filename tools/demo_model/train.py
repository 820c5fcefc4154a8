"""Train the built-in model on two processor cores and write vram_llm/demo/demo.gguf.

python -m tools.demo_model.train [--steps N] [--output FILE]
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from tools.demo_model import export, vocabulary
from tools.demo_model.conversations import Conversation, Draw, asked
from tools.demo_model.corpus import PROSE, Entry, entries
from tools.demo_model.network import Llama, Shape
from tools.demo_model.optimiser import Optimiser
from tools.demo_model.vocabulary import Vocabulary

OUTPUT = Path(__file__).resolve().parents[2] / "vram_llm" / "demo" / "demo.gguf"
IGNORED = -100
CHOOSING = (5.0, 4.0, 3.0, 2.0)  # weights of an answer's first tokens, which decide on the answer
COPYING = 5.0
Row = tuple[list[int], list[int], list[float]]
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The parameters of the training."""

    seed: int = 20
    steps: int = 600
    conversations: int = 64  # in a step
    parts: int = 4  # a step's conversations sorted by length, so that little of a batch is padding
    dropout: float = 0.1
    warm_up: int = 30
    with_tools: float = 0.3  # share of the conversations
    threads: int = 2


def main() -> None:
    """Train, print how well the model answers, write the file."""
    parser = argparse.ArgumentParser(description="Train the built-in model.")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    recipe = Recipe()
    recipe = replace(recipe, steps=options.steps or recipe.steps)
    learned = entries()
    words = learn_vocabulary(learned, recipe.seed)
    torch.manual_seed(recipe.seed)
    model = Llama(Shape(vocab=len(words.tokens)), recipe.dropout)
    train(model, learned, words, recipe, options.output)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes", flush=True)


def learn_vocabulary(learned: Sequence[Entry], seed: int) -> Vocabulary:
    """The vocabulary of drawn chats and of all questions and answers."""
    draw = Draw(learned, seed)
    chats = [draw.one().text for _ in range(1500)]
    texts = [text for entry in learned for text in (*entry.questions * 2, *[entry.answer] * 3)]
    return vocabulary.learn([*chats, *texts, PROSE.read_text(encoding="utf-8")])


def train(model: Llama, learned: Sequence[Entry], words: Vocabulary, recipe: Recipe, output: Path) -> None:
    """Train `model` on batches of conversations; write it to `output` now and then and at the end."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    optimiser = Optimiser(model)
    draw = Draw(learned, recipe.seed, recipe.with_tools)
    started, of_late = time.monotonic(), 0.0
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {recipe.steps} steps", flush=True)
    for step in range(recipe.steps):
        model.train()
        batches = _batches([draw.one() for _ in range(recipe.conversations)], words, recipe.parts)
        weight = sum(float(weights.sum()) for _, _, weights in batches)
        losses = []
        for batch in batches:
            loss = _loss(model, *batch) / weight
            loss.backward()
            losses.append(loss.item())
        optimiser.step(_pace(step, recipe))
        of_late = 0.95 * of_late + 0.05 * sum(losses) if step else sum(losses)
        if step % 50 == 49 or step == recipe.steps - 1:
            export.write(output, model, words)
            right = share_right(model, words, questions(learned, kept_out=True))
            passed = time.monotonic() - started
            print(f"step {step + 1}: loss {of_late:.3f}, kept out {right:.1%}, {passed:.0f} s", flush=True)
    for name, those in (("trained", questions(learned)), ("kept out", questions(learned, kept_out=True))):
        print(
            f"{name}: {share_right(model, words, those):.1%} of {len(those)} answered word for word",
            flush=True,
        )


def questions(learned: Sequence[Entry], *, kept_out: bool = False) -> list[Conversation]:
    """All training questions, or all test questions."""
    return [asked(q, entry) for entry in learned for q in (entry.kept_out if kept_out else entry.questions)]


@torch.no_grad()
def share_right(model: Llama, words: Vocabulary, those: Sequence[Conversation]) -> float:
    """The share of questions that greedy decoding answers word for word."""
    model.eval()
    right = 0
    for ids, targets, _ in _batches(those, words, math.ceil(len(those) / 64)):
        likeliest = model.logits(model(ids)).argmax(-1)
        right += int(((likeliest == targets) | (targets == IGNORED)).all(-1).sum())
    return right / len(those)


def _loss(model: Llama, ids: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The sum of the negative log-likelihoods of the answers' tokens."""
    learnt = targets != IGNORED
    unlikely = functional.cross_entropy(model.logits(model(ids)[learnt]), targets[learnt], reduction="none")
    return (unlikely * weights[learnt]).sum()


def _batches(chats: Sequence[Conversation], words: Vocabulary, parts: int) -> list[Batch]:
    rows = sorted((_row(chat, words) for chat in chats), key=lambda row: len(row[0]))
    return [_padded(rows[start:end]) for start, end in _cuts(len(rows), parts)]


def _cuts(count: int, parts: int) -> Iterator[tuple[int, int]]:
    size = math.ceil(count / parts)
    return ((start, min(start + size, count)) for start in range(0, count, size))


def _row(chat: Conversation, words: Vocabulary) -> Row:
    """Input ids; for each, the target id or IGNORED; and the weights of the targets."""
    ids: list[int] = []
    wanted: list[int] = []
    weights: list[float] = []
    for text, is_answer in chat.pieces:
        piece = words.ids(text)
        ids += piece
        wanted += piece if is_answer else [IGNORED] * len(piece)
        first = [*CHOOSING, *[1.0] * len(piece)]
        copied = words.touching(text, chat.copied)
        weights += [COPYING if one else weight for one, weight in zip(copied, first, strict=False)]
    return ids[:-1], wanted[1:], weights[1:]


def _padded(rows: Sequence[Row]) -> Batch:
    longest = max(len(ids) for ids, _, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full((len(rows), longest), IGNORED)
    weights = torch.zeros(len(rows), longest)
    for at, (read, wanted, heavy) in enumerate(rows):
        ids[at, : len(read)] = torch.tensor(read)
        targets[at, : len(wanted)] = torch.tensor(wanted)
        weights[at, : len(heavy)] = torch.tensor(heavy)
    return ids, targets, weights * (targets != IGNORED)


def _pace(step: int, recipe: Recipe) -> float:
    """Share of the full learning rate: a short rise, then a straight fall to nearly nothing."""
    return min((step + 1) / recipe.warm_up, 1.02 - step / recipe.steps)


if __name__ == "__main__":
    main()
