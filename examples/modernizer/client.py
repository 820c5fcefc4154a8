"""Asks the endpoint, so many requests at a time, and keeps every answer: a run that was ended goes on."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from examples.modernizer.agents import Agent, prompt

COUNTED = ("prompt_tokens", "cached_tokens", "completion_tokens")


@dataclass(slots=True)
class Client:
    """`kept` is a file of JSON lines, one for each answer; those in it are not asked for again."""

    openai: AsyncOpenAI
    model: str
    kept: Path
    concurrency: int
    answer_tokens: int
    asked: int = 0
    usage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)
    _turns: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._turns = asyncio.Semaphore(self.concurrency)
        if self.kept.exists():
            lines = self.kept.read_text(encoding="utf-8").splitlines()
            found = [one for one in map(_record, lines) if one]
            self._known = {one["key"]: one for one in found}
            self.kept.write_text("".join(f"{json.dumps(one)}\n" for one in found), encoding="utf-8")

    async def answer(self, agent: Agent, material: str, reviews: dict[str, Any] | None = None) -> Any:
        """The agent's answer, parsed; {"incomplete": text} where it ran out of tokens."""
        messages = prompt(material, agent, reviews)
        key = hashlib.sha256(json.dumps([self.model, self.answer_tokens, messages]).encode()).hexdigest()
        if key not in self._known:
            async with self._turns:
                await self._ask(key, agent, messages)
        found = self._known[key]
        for name in COUNTED:
            self.usage[name] += found["usage"][name]
        return found["answer"]

    async def _ask(self, key: str, agent: Agent, messages: Any) -> None:
        form = {"name": agent.name, "schema": agent.schema(self.answer_tokens), "strict": True}
        reply = await self.openai.chat.completions.create(
            model=self.model,
            messages=messages,
            temperature=0,
            max_tokens=self.answer_tokens,
            response_format={"type": "json_schema", "json_schema": form},  # type: ignore[arg-type]
        )
        self.asked += 1
        text = reply.choices[0].message.content or ""
        whole = reply.choices[0].finish_reason == "stop"
        record = {"key": key, "agent": agent.name, "usage": _usage(reply.usage)}
        record["answer"] = json.loads(text) if whole else {"incomplete": text}
        self._known[key] = record
        with self.kept.open("a", encoding="utf-8") as out:
            out.write(f"{json.dumps(record)}\n")


def _record(line: str) -> dict[str, Any] | None:
    """A kept answer; None for a line that was cut short as it was written."""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return found


def _usage(usage: Any) -> dict[str, int]:
    details = usage.prompt_tokens_details
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": (details.cached_tokens or 0) if details else 0,
        "completion_tokens": usage.completion_tokens,
    }
