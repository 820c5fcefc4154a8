"""Arguments of `vram-llm chat`: a model with options of `serve`, or a server's address; and a question."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from vram_llm.cli.server_address import is_address


@dataclass(frozen=True, slots=True)
class ChatArguments:
    """Without `address`, `model` is loaded with `serve_options`; None is the built-in one."""

    address: str | None
    model: str | None
    serve_options: tuple[str, ...]
    question: str | None


def parse(model: str | None, model_option: str | None, more: Sequence[str], url: str | None) -> ChatArguments:
    """`model` is the first word, `more` are the others. Raises UsageError."""
    words = [*([model] if model is not None else []), *more]
    if url is None and model_option is None and words and _is_server(words[0]):
        url, *words = words
    if url is None:
        if model_option is None and words and not words[0].startswith("-"):
            model_option, *words = words
        return ChatArguments(None, model_option, *split_question(words))
    if model_option is not None or (words and _is_model(words[0])):
        raise click.UsageError("give a model to load, or the address of a server that has one: not both")
    options, question = split_question(words)
    if options:
        raise click.UsageError(f"{options[0]} is for a model to load; the server at {url} has its own")
    return ChatArguments(url, None, (), question)


def _is_server(word: str) -> bool:
    return is_address(word) and not Path(word).exists()


def _is_model(word: str) -> bool:
    from vram_llm.workflows.model_names import DEMO

    return word == DEMO or word.lower().endswith(".gguf")


def split_question(words: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Options of `serve` with their values, and the rest, joined by spaces: a question."""
    from vram_llm.cli import serve

    takes_value = {
        flag: not (isinstance(param, click.Option) and param.is_flag)
        for param in serve.command.params
        for flag in (*param.opts, *param.secondary_opts)
    }
    options: list[str] = []
    question: list[str] = []
    awaits_value = False  # a known flag ends the wait: the value of some flags may be left out
    for word in words:
        if word in takes_value or (word.startswith("-") and not awaits_value):
            options.append(word)
            awaits_value = takes_value.get(word, False)
        elif awaits_value:
            options.append(word)
            awaits_value = False
        else:
            question.append(word)
    return tuple(options), " ".join(question) or None


def check_serve_options(options: Sequence[str]) -> None:
    """Raises UsageError for options that `vram-llm serve` would not take."""
    from vram_llm.cli import serve
    from vram_llm.cli.configured_command import NO_CONFIG

    context = serve.command.make_context("vram-llm serve", [*options, "--config", NO_CONFIG])
    if context.params.get("ssl_certfile") is not None:
        raise click.UsageError(
            "--ssl-certfile is for `vram-llm serve`: the server of a chat has no other clients"
        )
