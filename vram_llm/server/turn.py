"""A chat made ready for the engine: its prompt, and how the answer is to be read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vram_llm.chat.budget import is_opened, thinking_marks
from vram_llm.chat.dialect import Dialect, dialect_of
from vram_llm.chat.efforts import OFF
from vram_llm.chat.forced import call_schema, forced, text_call
from vram_llm.chat.prompt import ChatPrompt, chat_prompt
from vram_llm.chat.reader import Parser
from vram_llm.engine.info import ModelInfo
from vram_llm.engine.request import Grammar, GrammarKind, Image, ReasoningBudget
from vram_llm.errors import RequestError
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import NotSupported
from vram_llm.server.pictures import Pictures
from vram_llm.server.served import chat_template
from vram_llm.server.tools import ToolUse

_OURS = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


@dataclass(frozen=True, slots=True)
class Turn:
    """The assistant's turn. `new_parser` makes one for each choice: None where all text is content."""

    prompt: str
    add_bos: bool
    marks: tuple[str, ...]
    new_parser: Callable[[], Parser | None]
    grammar: Grammar | None = None
    one_call: bool = False
    images: tuple[Image, ...] = ()
    reasoning_budget: ReasoningBudget | None = None


def make_turn(
    info: ModelInfo,
    messages: list[dict[str, Any]],
    use: ToolUse,
    pictures: Pictures,
    *,
    config: ServerConfig,
    effort: str | None = None,
    names: Mapping[str, Any] | None = None,
    grammar: Grammar | None = None,
    reasoning_budget: int | None = None,
    continues: bool = False,
    add_generation_prompt: bool = True,
) -> Turn:
    """The turn that follows `messages` (see chat.history), which have the marks of `pictures` in them.

    `names` are the client's own for the template. With a `grammar`, or a call that must be made, the answer
    begins at once, without thinking. `reasoning_budget`: the most tokens of thinking; None: no limit.
    `continues`: the last message is the assistant's, and the answer goes on where it ends.
    `add_generation_prompt` of False opens no turn of the assistant's. Blocks: call it in a thread. Raises
    RequestError, BrokenTemplate.
    """
    if grammar is not None and use.tools:
        raise NotSupported(
            f"'{grammar.field}' together with 'tools' is not supported; leave one out, or send a tool_choice "
            "of 'none'",
            grammar.field,
        )
    given = {**config.chat_template_kwargs, **(names or {})}
    if reasoning_budget == 0 and effort is None:
        effort = "none"
    dialect = dialect_of(info.chat_template)
    prompt = chat_prompt(
        messages,
        list(use.tools),
        chat_template(info.chat_template, info.bos_token, info.eos_token),
        dialect,
        _names(dialect, effort, given),
        continues=continues,
        add_generation_prompt=add_generation_prompt,
    )
    add_bos = not (info.bos_token and prompt.text.startswith(info.bos_token))
    if effort in OFF and not dialect.efforts and not continues and add_generation_prompt:
        prompt = replace(prompt, text=prompt.answering())  # no name switches its thinking off
    turn = _turn(prompt, add_bos, use, grammar, reasoning_budget)
    text, images = pictures.placed(turn.prompt)
    return replace(turn, prompt=text, images=images)


def _turn(
    prompt: ChatPrompt, add_bos: bool, use: ToolUse, grammar: Grammar | None, n_thinking: int | None
) -> Turn:
    schemas = use.schemas
    if grammar is not None:
        return Turn(prompt.answering(), add_bos, (), lambda: None, grammar)
    if use.written is not None:
        name, wanted = use.written
        reader, new_id = text_call(name), prompt.dialect.new_id
        return Turn(prompt.answering(), add_bos, (), lambda: Parser(reader, new_id), wanted, True)
    if use.must_call:
        assert schemas is not None
        wanted = Grammar(
            kind=GrammarKind.JSON_SCHEMA,
            text=call_schema(schemas, use.only),
            field="tools",
            lenient=True,
        )
        new_id = prompt.dialect.new_id
        return Turn(prompt.calling(), add_bos, (), lambda: Parser(forced, new_id), wanted, True)
    budget = _budget(prompt, n_thinking)
    if budget is not None and budget.opened and not n_thinking and prompt.begun is None:
        prompt, budget = replace(prompt, text=prompt.answering()), None
    parses = prompt.parser(schemas) is not None
    return Turn(
        prompt=prompt.text,
        add_bos=add_bos,
        marks=prompt.dialect.marks if parses else (),
        new_parser=lambda: prompt.parser(schemas),
        one_call=not use.parallel,
        reasoning_budget=budget,
    )


def _budget(prompt: ChatPrompt, n_tokens: int | None) -> ReasoningBudget | None:
    """How long the model may think after `prompt`; None where that has no limit."""
    marks = thinking_marks(prompt.dialect)
    if n_tokens is None or marks is None:
        return None
    opening, closing = marks
    return ReasoningBudget(
        n_tokens=n_tokens,
        opening=opening,
        closing=closing,
        opened=is_opened(prompt.text, opening) if prompt.begun is None else prompt.is_thinking,
        again=prompt.dialect.name == "harmony",
    )


def _names(dialect: Dialect, effort: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The names that a client gives the template, and those with which the template takes its effort.

    An effort asks for no other answer, so where the template takes none it changes nothing: the model
    does not think, or always does. Clients send one to every model. Raises RequestError.
    """
    if taken := sorted(_OURS & given.keys()):
        raise RequestError(f"'{taken[0]}' in 'chat_template_kwargs' is the server's", "chat_template_kwargs")
    if effort is None:
        return dict(given)
    names = dialect.efforts.get(effort, {})
    if names and dialect.thinking is None and effort not in OFF:
        raise NotSupported(
            "This model's thinking is not parsed, so it would be part of the answer; "
            "leave 'reasoning_effort' out, or send \"none\"",
            "reasoning_effort",
        )
    return {**names, **given}
