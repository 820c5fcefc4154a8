"""Prepares a chat for the engine: its prompt, and the parser of its answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vram_llm.chat.constrained_calls import read_forced_call, read_text_call
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.oldest_turns import cuts, without_oldest
from vram_llm.chat.prompt import ChatPrompt, chat_prompt
from vram_llm.chat.reader import Parser
from vram_llm.chat.thinking_budget import is_opened, may_reopen, thinking_marks
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import Grammar, Image, ReasoningBudget, Request
from vram_llm.server.config import ReasoningMode, ServerConfig
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.prompt_limits import check_chat_fits
from vram_llm.server.serving_context import chat_template, template_source
from vram_llm.server.template_variables import template_variables
from vram_llm.server.thinking_fields import ThinkingSettings
from vram_llm.server.tool_grammars import (
    answer_or_calls_grammar,
    forced_grammar,
    strict_grammar,
    with_constrainable_calls,
)
from vram_llm.server.tools import ToolUse

_BYTES_BETWEEN_CUTS = 2  # as a divisor of the context's tokens: an eighth of it at four bytes a token


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """The assistant's turn. `new_parser` makes a parser for a choice, or None if all text is content.

    `n_cuts` and `dropped_messages`: the turns before the nth cut (see chat.oldest_turns) were dropped.
    """

    prompt: str
    add_bos: bool
    marks: tuple[str, ...]
    new_parser: Callable[[], Parser | None]
    grammar: Grammar | None = None
    one_call: bool = False
    images: tuple[Image, ...] = ()
    reasoning_budget: ReasoningBudget | None = None
    n_cuts: int = 0
    dropped_messages: int = 0

    def request(self, reply_id: str, max_tokens: int | None, logprobs: int | None = None) -> Request:
        """The engine's request for an answer of at most `max_tokens` tokens."""
        return Request(
            id=reply_id,
            prompt=self.prompt,
            add_bos=self.add_bos,
            max_tokens=max_tokens,
            marks=self.marks,
            grammar=self.grammar,
            images=self.images,
            reasoning_budget=self.reasoning_budget,
            logprobs=logprobs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateInput:
    """The variables of the chat template. `messages` (see chat.history) contain the marks of `images`.

    `variables`: the client's template variables. `continues`: the answer continues the last message, which is
    the assistant's. `add_generation_prompt` of False: the prompt does not open the assistant's turn.
    The turns before cut number `n_cuts` (see chat.oldest_turns), or the last one, are dropped; 0: none.
    """

    messages: list[dict[str, Any]]
    images: RequestImages
    variables: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False
    add_generation_prompt: bool = True
    n_cuts: int = 0


def prepare_chat(
    info: ModelInfo,
    chat: TemplateInput,
    use: ToolUse,
    *,
    config: ServerConfig,
    thinking: ThinkingSettings,
    grammar: Grammar | None = None,
) -> PreparedChat:
    """The assistant's turn after `chat`.

    With a `grammar`, or a forced call, the answer begins at once, without thinking. The server's limit of
    thinking is a maximum for all requests. Blocks: call it in a thread. Raises RequestError, BrokenTemplate.
    """
    messages, n_cuts = _without_oldest(chat, info.n_ctx)
    check_chat_fits(info, messages)
    budgets = [budget for budget in (thinking.n_tokens, config.reasoning_budget) if budget is not None]
    n_thinking = min(budgets, default=None)
    effort = thinking.effort
    if effort is None and (n_thinking == 0 or config.reasoning is ReasoningMode.OFF):
        effort = "none"
    source = template_source(info, tools=bool(use.tools))
    dialect = with_constrainable_calls(dialect_of(source), use, grammar)
    variables = template_variables(dialect, config, effort, chat.variables, thinking.field)
    prompt = chat_prompt(
        messages,
        list(use.tools),
        chat_template(source, info.bos_token, info.eos_token),
        dialect,
        variables,
        continues=chat.continues,
        add_generation_prompt=chat.add_generation_prompt,
    )
    add_bos = not (info.bos_token and prompt.text.startswith(info.bos_token))
    is_off = variables["enable_thinking"] is False and not dialect.efforts
    thinks = dialect.thinking is not None or dialect.form.thinks is not None
    if is_off and thinks and not chat.continues and chat.add_generation_prompt:
        prompt = replace(prompt, text=prompt.begin_answer())  # no variable switches its thinking off
    prepared = _prepare(prompt, add_bos, use, grammar, n_thinking)
    n_dropped = len(chat.messages) - len(messages)
    text, images = (chat.images.within(messages) if n_dropped else chat.images).placed(prepared.prompt)
    return replace(prepared, prompt=text, images=images, n_cuts=n_cuts, dropped_messages=n_dropped)


def _without_oldest(chat: TemplateInput, n_ctx: int) -> tuple[list[dict[str, Any]], int]:
    """The messages without the turns to drop, and the number of the cut."""
    if not chat.n_cuts:
        return chat.messages, 0
    places = cuts(chat.messages, n_ctx // _BYTES_BETWEEN_CUTS)
    n_cuts = min(chat.n_cuts, len(places))
    return without_oldest(chat.messages, places[n_cuts - 1]) if n_cuts else chat.messages, n_cuts


def _prepare(
    prompt: ChatPrompt, add_bos: bool, use: ToolUse, grammar: Grammar | None, n_thinking: int | None
) -> PreparedChat:
    if grammar is not None and not use.tools:
        return PreparedChat(prompt.begin_answer(), add_bos, (), lambda: None, grammar)
    if use.written is not None:
        name, wanted = use.written
        reader, new_id = read_text_call(name), prompt.dialect.new_id
        return PreparedChat(prompt.begin_answer(), add_bos, (), lambda: Parser(reader, new_id), wanted, True)
    new_id = prompt.dialect.new_id
    if use.must_call:
        wanted = forced_grammar(use)
        return PreparedChat(
            prompt.begin_call(), add_bos, (), lambda: Parser(read_forced_call, new_id), wanted, True
        )
    if grammar is not None:
        prompt, grammar = answer_or_calls_grammar(prompt, use, grammar)
        return PreparedChat(
            prompt.text, add_bos, prompt.dialect.marks, _parsers(prompt, use), grammar, not use.parallel
        )
    budget = _budget(prompt, n_thinking)
    if budget is not None and budget.opened and not n_thinking and prompt.begun is None:
        prompt, budget = replace(prompt, text=prompt.begin_answer()), None
    if use.strict:
        prompt, grammar = strict_grammar(prompt, use)
    parses = prompt.parser(use.schemas) is not None
    return PreparedChat(
        prompt=prompt.text,
        add_bos=add_bos,
        marks=prompt.dialect.marks if parses else (),
        new_parser=_parsers(prompt, use),
        grammar=grammar,
        one_call=not use.parallel,
        reasoning_budget=budget,
    )


def _parsers(prompt: ChatPrompt, use: ToolUse) -> Callable[[], Parser | None]:
    return lambda: prompt.parser(use.schemas)


def _budget(prompt: ChatPrompt, n_tokens: int | None) -> ReasoningBudget | None:
    """The limit of thinking after `prompt`; None: no limit."""
    marks = thinking_marks(prompt.dialect)
    if n_tokens is None or marks is None:
        return None
    opening, closing = marks
    opened = is_opened(prompt.dialect, prompt.text) if prompt.begun is None else prompt.is_thinking
    if not opening and not opened:
        return None
    return ReasoningBudget(
        n_tokens=n_tokens, opening=opening, closing=closing, opened=opened, again=may_reopen(opening)
    )
