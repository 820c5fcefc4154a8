"""A chat made ready for the engine: its prompt, and how the answer is to be read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vram_llm.chat import history
from vram_llm.chat.budget import is_opened, thinking_marks
from vram_llm.chat.dialect import Dialect, dialect_of
from vram_llm.chat.forced import call_schema, forced
from vram_llm.chat.reader import Parser
from vram_llm.engine.info import ModelInfo
from vram_llm.engine.request import Grammar, GrammarKind, Image, ReasoningBudget
from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.pictures import Pictures
from vram_llm.server.served import chat_template
from vram_llm.server.tools import ToolUse

OFF = ("none", "minimal")  # efforts that mean no thinking, to templates that can only switch it
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
    effort: str | None = None,
    names: Mapping[str, Any] | None = None,
    grammar: Grammar | None = None,
    reasoning_budget: int | None = None,
) -> Turn:
    """The turn that follows `messages` (see chat.history), which have the marks of `pictures` in them.

    `names` are the client's own for the template. `reasoning_budget`: the most tokens of thinking; None: no
    limit. With a `grammar`, or a call that must be made, the answer
    begins at once, without thinking. Blocks: call it in a thread. Raises RequestError, BrokenTemplate.
    """
    if grammar is not None and use.tools:
        raise NotSupported(
            f"'{grammar.field}' together with 'tools' is not supported; leave one out, or send a tool_choice "
            "of 'none'",
            grammar.field,
        )
    turn = _turn(info, messages, use, effort, names or {}, grammar, reasoning_budget)
    prompt, images = pictures.placed(turn.prompt)
    return replace(turn, prompt=prompt, images=images)


def _turn(
    info: ModelInfo,
    messages: list[dict[str, Any]],
    use: ToolUse,
    effort: str | None,
    names: Mapping[str, Any],
    grammar: Grammar | None,
    n_thinking: int | None,
) -> Turn:
    if n_thinking == 0:  # templates without such a switch do not read it
        names = {"enable_thinking": False, **names}
    dialect = dialect_of(info.chat_template)
    template = chat_template(info.chat_template, info.bos_token, info.eos_token)
    tools = list(use.tools)
    prompt = template.render(
        history.shown(messages, tools, dialect, template),
        tools=tools if tools and dialect.takes_tools else None,
        **_names(dialect, effort, names),
    )
    add_bos = not (info.bos_token and prompt.startswith(info.bos_token))
    schemas = use.schemas
    if grammar is not None:
        return Turn(dialect.answering(prompt), add_bos, (), lambda: None, grammar)
    if use.must_call:
        assert schemas is not None
        wanted = Grammar(
            kind=GrammarKind.JSON_SCHEMA,
            text=call_schema(schemas, use.only),
            field="tools",
            lenient=True,
        )
        return Turn(
            dialect.calling(prompt), add_bos, (), lambda: Parser(forced, dialect.new_id), wanted, True
        )
    budget = _budget(dialect, prompt, n_thinking)
    if budget is not None and budget.opened and not n_thinking:
        prompt, budget = dialect.answering(prompt), None
    parses = dialect.parser(schemas, prompt) is not None
    return Turn(
        prompt=prompt,
        add_bos=add_bos,
        marks=dialect.marks if parses else (),
        new_parser=lambda: dialect.parser(schemas, prompt),
        one_call=not use.parallel,
        reasoning_budget=budget,
    )


def _budget(dialect: Dialect, prompt: str, n_tokens: int | None) -> ReasoningBudget | None:
    """How long the model may think after `prompt`; None where that has no limit."""
    marks = thinking_marks(dialect)
    if n_tokens is None or marks is None:
        return None
    opening, closing = marks
    return ReasoningBudget(
        n_tokens=n_tokens,
        opening=opening,
        closing=closing,
        opened=is_opened(prompt, opening),
        again=dialect.name == "harmony",
    )


def _names(dialect: Dialect, effort: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    if taken := sorted(_OURS & given.keys()):
        raise RequestError(f"'{taken[0]}' in 'chat_template_kwargs' is the server's", "chat_template_kwargs")
    if effort is None:
        return dict(given)
    if not dialect.effort and effort not in OFF:
        raise NotSupported(
            "'reasoning_effort' is not supported with this model: its chat template takes none",
            "reasoning_effort",
        )
    return {"reasoning_effort": effort, "enable_thinking": effort not in OFF, **given}
