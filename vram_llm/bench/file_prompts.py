"""Prompts of a file: ShareGPT's conversations, or a JSON object on each line."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_llm.bench.endpoint import LoadPrompt
from vram_llm.bench.random_prompts import MadePrompts
from vram_llm.bench.server_questions import ServerTokenizer
from vram_llm.errors import BadPromptFile

# vLLM's bounds of a conversation (vllm/benchmarks/datasets.py, is_valid_sequence)
_LEAST_TOKENS, _MOST_PROMPT, _MOST_TOKENS = 4, 1024, 2048
_CHARACTERS_A_TOKEN = 4  # of English, where the server has no tokenizer
_OUTPUT_TOKENS = 256  # vLLM's --custom-output-len
_HOW = 'each line is a JSON object with "prompt", or with "messages", and perhaps "output_tokens"'


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """A file of prompts. `output_tokens` is the length of answers, None: as the file says, else 256."""

    path: Path
    is_sharegpt: bool = False
    output_tokens: int | None = None
    shuffled: bool = True


async def file_prompts(file: PromptFile, tokenizer: ServerTokenizer | None, n: int, seed: int) -> MadePrompts:
    """`n` prompts of a file, used again if they are too few. Raises BadPromptFile."""
    if file.is_sharegpt:
        return await _sharegpt(file, tokenizer, n, seed)
    found = [
        _prompt_of_line(line, f"line {number} of {file.path}", file.output_tokens)
        for number, line in enumerate(_text(file.path).splitlines(), 1)
        if line.strip()
    ]
    if file.shuffled:
        random.Random(seed).shuffle(found)
    return MadePrompts(tuple(_repeated(found, n, file.path)))


async def _sharegpt(file: PromptFile, tokenizer: ServerTokenizer | None, n: int, seed: int) -> MadePrompts:
    """The first questions of conversations within vLLM's bounds, and the lengths of their answers.

    Without a tokenizer lengths are estimated.
    """
    talks = [talk for entry in _conversations(file.path) if len(talk := _turns(entry)) >= 2]
    if file.shuffled:
        random.Random(seed).shuffle(talks)
    found: list[LoadPrompt] = []
    for question, answer, *_ in talks:
        if len(found) == n:
            break
        n_prompt = await _length(question, tokenizer)
        n_answer = file.output_tokens or await _length(answer, tokenizer)
        is_long_enough = n_prompt >= _LEAST_TOKENS and (
            file.output_tokens is not None or n_answer >= _LEAST_TOKENS
        )
        if is_long_enough and n_prompt <= _MOST_PROMPT and n_prompt + n_answer <= _MOST_TOKENS:
            found.append(LoadPrompt(question, n_prompt, n_answer))
    note = "" if tokenizer else f"lengths are estimated by {_CHARACTERS_A_TOKEN} characters a token"
    return MadePrompts(tuple(_repeated(found, n, file.path)), note)


def _prompt_of_line(line: str, where: str, n_output: int | None) -> LoadPrompt:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise BadPromptFile(f"{where} is not JSON ({error}); {_HOW}") from None
    content = (entry.get("prompt") or entry.get("messages")) if isinstance(entry, dict) else None
    if not isinstance(content, str | list):
        raise BadPromptFile(f"{where} has no prompt; {_HOW}")
    own = n_output or entry.get("output_tokens", _OUTPUT_TOKENS)
    if not isinstance(own, int) or own < 1:
        raise BadPromptFile(f"{where}: output_tokens is {own!r} and must be a number of tokens from 1")
    return LoadPrompt(content, None, own)


def _repeated(found: list[LoadPrompt], n: int, path: Path) -> Iterator[LoadPrompt]:
    if not found:
        raise BadPromptFile(f"{path} has no prompt that can be used; {_HOW}, or it is ShareGPT's JSON")
    for i in range(n):
        yield found[i % len(found)]


def _turns(entry: Any) -> list[str]:
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(turns, list):
        return []
    return [turn["value"] for turn in turns if isinstance(turn, dict) and isinstance(turn.get("value"), str)]


def _conversations(path: Path) -> list[Any]:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise BadPromptFile(f"{path} is not JSON: {error}; --dataset-name custom reads JSONL") from None
    if not isinstance(found, list):
        raise BadPromptFile(f"{path} is no list of conversations; --dataset-name custom reads JSONL")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise BadPromptFile(
            f"{path} cannot be read: {why}; --dataset-path names the file of prompts"
        ) from None


async def _length(text: str, tokenizer: ServerTokenizer | None) -> int:
    return len(text) // _CHARACTERS_A_TOKEN if tokenizer is None else len(await tokenizer.tokens(text))
