"""The engine's grammars for answers with tools."""

from collections.abc import Iterable

from vram_llm.chat.call_grammar import CallGrammar, ToolSchema
from vram_llm.chat.dialect import Dialect
from vram_llm.chat.prompt import ChatPrompt
from vram_llm.chat.tool_grammar import calls_or_answer, can_constrain_calls, forced_call, free_or_calls
from vram_llm.chat.tools_in_system_message import with_tools_in_system_message
from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.server.errors import NotSupported
from vram_llm.server.implied_types import with_types
from vram_llm.server.schema_formats import without_own_formats
from vram_llm.server.tools import ToolUse

_ANY_OBJECT = {"type": "object"}


def forced_grammar(use: ToolUse) -> Grammar:
    """The grammar of a forced call: of any tool, or of the named one."""
    tools = {name: tool for name, tool in _tool_schemas(use).items() if use.only in (None, name)}
    return _grammar(forced_call(tools), tools)


def with_constrainable_calls(dialect: Dialect, use: ToolUse, answer: Grammar | None) -> Dialect:
    """A dialect whose calls a grammar can constrain, if `strict` or `answer_or_calls` needs that."""
    if not use.tools or use.must_call or not (use.strict or answer):
        return dialect
    tools = _tool_schemas(use) if answer else _strict_tools(use)
    return dialect if can_constrain_calls(dialect, tools) else with_tools_in_system_message(dialect)


def strict_grammar(prompt: ChatPrompt, use: ToolUse) -> tuple[ChatPrompt, Grammar]:
    """A grammar for any answer or calls; strict tools' arguments match their schema. With its prompt.

    Raises NotSupported.
    """
    tools = _strict_tools(use)
    constrained = free_or_calls(prompt, tools, parallel=use.parallel)
    if constrained is None:
        raise NotSupported(
            "'strict' is not supported with this model: the way it writes calls cannot be held to a schema; "
            "leave 'strict' out, or send a 'tool_choice' of 'required'",
            "tools",
        )
    return constrained.prompt, _grammar(constrained.grammar, tools)


def answer_or_calls_grammar(prompt: ChatPrompt, use: ToolUse, answer: Grammar) -> tuple[ChatPrompt, Grammar]:
    """A grammar for calls, or for an answer of the given form. With its prompt. Raises NotSupported."""
    tools = _tool_schemas(use)
    constrained = calls_or_answer(prompt, tools, parallel=use.parallel)
    if constrained is None:
        raise NotSupported(
            f"'{answer.field}' together with 'tools' is not supported with this model: the way it writes "
            "calls cannot be held to a grammar; leave one out",
            answer.field,
        )
    return constrained.prompt, _grammar(constrained.grammar, tools, answer)


def _tool_schemas(use: ToolUse) -> dict[str, ToolSchema]:
    return {
        name: ToolSchema(with_types(without_own_formats(schema)), name not in use.strict)
        for name, schema in (use.schemas or {}).items()
    }


def _strict_tools(use: ToolUse) -> dict[str, ToolSchema]:
    return {
        name: tool if name in use.strict or _takes_nothing(tool) else ToolSchema(_ANY_OBJECT, lenient=True)
        for name, tool in _tool_schemas(use).items()
    }


def _takes_nothing(tool: ToolSchema) -> bool:
    return tool.schema.get("properties") == {} and tool.schema.get("additionalProperties") is False


def _grammar(grammar: CallGrammar, tools: Iterable[str], answer: Grammar | None = None) -> Grammar:
    return Grammar(
        kind=GrammarKind.MARKED,
        text=grammar.lark,
        field="tools",
        marks=grammar.marks,
        never=grammar.never,
        tools=tuple(tools),
        answer=answer,
    )
