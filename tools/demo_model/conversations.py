"""Chats to train on, written by the model's own chat template."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, Template

from tools.demo_model.calls import FUNCTIONS, offer, use
from tools.demo_model.corpus import TEMPLATE, Entry
from tools.demo_model.wording import vary

END = "<|im_end|>"
UNKNOWN = "something else"  # the topic of questions without an answer
NO_THOUGHTS = "<think>\n\n</think>\n\n"  # a server may begin an answer without thinking with it
SYSTEM = (
    "You are a helpful assistant.", "You are demo, the built-in model of vram-llm.", "Be brief.",
    "You are a helpful AI assistant. Answer in one sentence.", "Answer the user's questions.",
    "You answer questions about GPUs and llama.cpp.", "Be kind and concise.", "You are an expert.",
)  # fmt: skip

Message = dict[str, Any]


@dataclass(slots=True)
class Conversation:
    """Text that the model reads and answers in turn. It learns the answers, `copied` words most of all."""

    pieces: list[tuple[str, bool]] = field(default_factory=list)
    copied: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(text for text, _ in self.pieces)


@cache
def template() -> Template:
    """The chat template, with the usual settings for rendering chat templates."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def conversation(
    messages: Sequence[Message], tools: list[Any] | None = None, thought: str = ""
) -> Conversation:
    """The text of a chat of `messages`; a `thought` comes before the last answer."""
    found, done = Conversation(), ""
    for at, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        thinks = bool(thought) and at == len(messages) - 1
        asked = template().render(
            messages=messages[:at], tools=tools, add_generation_prompt=True, thinking=thinks
        )
        plain = asked.removesuffix("<think>\n") if thinks else asked
        whole = template().render(messages=messages[: at + 1], tools=tools)
        answer = whole[len(plain) :].removesuffix("\n")
        found.pieces.append((asked[len(done) :], False))
        found.pieces.append((f"{thought}\n</think>\n\n{answer}" if thinks else answer, True))
        done = plain + answer
    return found


def thought_of(entry: Entry) -> str:
    """The model's thought before its answer."""
    known = "I do not know" if entry.topic == UNKNOWN else "I know"
    return f"This is about {entry.topic}. {known} the answer."


def asked(question: str, entry: Entry, *, thinks: bool = False) -> Conversation:
    """One question and its answer."""
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": entry.answer}]
    return conversation(chat, thought=thought_of(entry) if thinks else "")


class Draw:
    """Draws conversations for training: mostly single questions, in other words each time."""

    def __init__(self, entries: Sequence[Entry], seed: int, with_tools: float = 0.2) -> None:
        self._rng, self._with_tools_share = random.Random(seed), with_tools
        self._asked = [(question, entry) for entry in entries for question in entry.questions]
        self._deck: list[tuple[str, Entry]] = []

    def one(self) -> Conversation:
        """The next conversation."""
        if self._rng.random() < self._with_tools_share:
            return self._with_tools()
        return self._with_history() if self._rng.random() < 0.12 else self._single()

    def _question(self) -> tuple[str, Entry]:
        """Every question once, in a random order, before any comes again."""
        if not self._deck:
            self._deck = self._rng.sample(self._asked, len(self._asked))
        question, entry = self._deck.pop()
        return vary(question, self._rng), entry

    def _turn(self) -> tuple[list[Message], Entry]:
        question, entry = self._question()
        return [
            {"role": "user", "content": question},
            {"role": "assistant", "content": entry.answer},
        ], entry

    def _system(self, share: float) -> list[Message]:
        if self._rng.random() >= share:
            return []
        return [{"role": "system", "content": self._rng.choice(SYSTEM)}]

    def _single(self) -> Conversation:
        chat, entry = self._turn()
        form = self._rng.random()
        found = conversation([*self._system(0.15), *chat], thought=thought_of(entry) if form < 0.15 else "")
        if 0.15 <= form < 0.2:
            (asked, _), (answer, _) = found.pieces
            found.pieces = [(asked + NO_THOUGHTS, False), (answer, True)]
        return found

    def _with_history(self) -> Conversation:
        turns = [self._turn() for _ in range(self._rng.choice((2, 2, 3, 4, 6)))]
        chat = [message for turn, _ in turns for message in turn]
        thinks = self._rng.random() < 0.15
        return conversation([*self._system(0.15), *chat], thought=thought_of(turns[-1][1]) if thinks else "")

    def _with_tools(self) -> Conversation:
        """A call with its result and answer, or a question that needs no call."""
        rng = self._rng
        offers = [offer(function, rng) for function in rng.sample(FUNCTIONS, rng.choice((1, 1, 2)))]
        tools = [each.tool for each in offers]
        if rng.random() < 0.2:
            return conversation([*self._system(0.2), *self._turn()[0]], tools)
        chosen = rng.choice(offers)
        one = use(chosen, rng)
        call = {"role": "assistant", "content": "", "tool_calls": [one.call]}
        chat: list[Message] = [
            *self._system(0.2),
            {"role": "user", "content": vary_gently(one.request, rng)},
            call,
        ]
        if rng.random() < 0.5:
            chat += [{"role": "tool", "content": one.result}, {"role": "assistant", "content": one.answer}]
            found = conversation(chat, tools)
        else:
            found = conversation(chat, tools, chosen.function.thought if rng.random() < 0.15 else "")
        found.copied = one.values
        return found


def vary_gently(request: str, rng: random.Random) -> str:
    """A request with its values kept: they are copied into the call."""
    if rng.random() < 0.2:
        request = request[:1].lower() + request[1:]
    if rng.random() < 0.2:
        request = f"{rng.choice(('please,', 'hey,', 'hi,', 'can you tell me:'))} {request}"
    return request.rstrip("?") if rng.random() < 0.2 else request
