"""Which grammar constrains an answer with tools, by the dialect of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vram_llm.chat.call_grammar import CallGrammar, GrammarWriter, ToolSchema, joined, quoted, write_calls
from vram_llm.chat.constrained_calls import json_calls_between
from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats import harmony, llama_json
from vram_llm.chat.formats.call_json import CallJson, json_members
from vram_llm.chat.prompt import ChatPrompt
from vram_llm.chat.tag_grammar import GLM, TagLayout, can_constrain, layout_of, write_tagged
from vram_llm.chat.thinking_budget import is_opened

Tools = Mapping[str, ToolSchema]


@dataclass(frozen=True, slots=True)
class ConstrainedAnswer:
    """The grammar of an answer, and the prompt whose parser reads it."""

    grammar: CallGrammar
    prompt: ChatPrompt


def can_constrain_calls(dialect: Dialect, tools: Tools) -> bool:
    """Whether a grammar can constrain calls of these tools in the dialect's own form."""
    form = dialect.form
    return _layout(dialect, tools) is not None or form.call_json is not None or form.tags is not None


def forced_call(tools: Tools) -> CallGrammar:
    """One call as a JSON object, and nothing else: {"name": ..., "arguments": {...}}."""
    writer = GrammarWriter()
    calls = write_calls(writer, json_members(""), tools, parallel=False)
    writer.rule("start", calls)
    return writer.finished()


def free_or_calls(prompt: ChatPrompt, tools: Tools, *, parallel: bool) -> ConstrainedAnswer | None:
    """Free thinking and text, and calls that match a schema from the mark at their beginning on.

    This holds within the thinking too: a call there may be read as one. None if the dialect's calls begin
    without such a mark.
    """
    writer = GrammarWriter()
    layout = _layout(prompt.dialect, tools)
    if layout is not None:
        write_tagged(writer, layout, tools, parallel=parallel)
        return ConstrainedAnswer(_free(writer), prompt)
    prompt = _with_json_calls(prompt)
    form = prompt.dialect.call_json
    if form is None:
        return None
    if prompt.dialect.name == "harmony":
        return ConstrainedAnswer(_harmony(writer, tools, "TEXT"), prompt)
    if prompt.dialect.name == "llama-json":
        return ConstrainedAnswer(_llama_json(writer, form, tools, prompt, parallel=parallel), prompt)
    calls = write_calls(writer, form, tools, parallel=parallel)
    writer.rule("section", joined(f"trigger_{writer.mark(form.trigger)}", calls))
    if not prompt.dialect.takes_tools and prompt.dialect.form.answer_begins:
        prompt = replace(prompt, text=prompt.begin_answer())
    return ConstrainedAnswer(_free(writer, _never(prompt, form)), prompt)


def calls_or_answer(prompt: ChatPrompt, tools: Tools, *, parallel: bool) -> ConstrainedAnswer | None:
    """Calls, or the rule `@answer`, without text before; None as for `free_or_calls`."""
    writer = GrammarWriter()
    writer.rule("answer", "@answer")
    layout = _layout(prompt.dialect, tools)
    if layout is not None:
        write_tagged(writer, layout, tools, parallel=parallel)
        writer.rule("start", "WS calls", "WS answer")
        return ConstrainedAnswer(writer.finished(), replace(prompt, text=prompt.begin_answer()))
    prompt = _with_json_calls(prompt)
    form = prompt.dialect.call_json
    if form is None:
        return None
    if prompt.dialect.name == "harmony":
        return ConstrainedAnswer(_harmony(writer, tools, "answer"), prompt)
    if prompt.dialect.name == "llama-json":
        calls = _llama_calls(writer, form, tools, parallel=parallel)
    else:
        calls = joined(writer.literal(form.trigger), write_calls(writer, form, tools, parallel=parallel))
        calls = writer.rule("section", calls)
        calls = f"{calls} (WS {calls})*" if parallel else calls
    writer.rule("start", joined("WS", calls), joined("WS", "answer"))
    return ConstrainedAnswer(writer.finished(), replace(prompt, text=prompt.begin_answer()))


def _free(writer: GrammarWriter, never: tuple[str, ...] = ()) -> CallGrammar:
    """Free text with the rule `section` anywhere in it."""
    writer.rule("piece", "SAFE others")
    writer.rule("start", "(piece | section)* TEXT")
    return writer.finished(never)


def _layout(dialect: Dialect, tools: Tools) -> TagLayout | None:
    """The layout of arguments in tags; None if the dialect has none, or cannot constrain a tool in it."""
    if not all(tool.lenient or can_constrain(tool) for tool in tools.values()):
        return None
    form = dialect.form
    if form.name == "glm":
        return GLM
    return None if form.layout is None else layout_of(form.layout)


def _with_json_calls(prompt: ChatPrompt) -> ChatPrompt:
    """The prompt with JSON calls between the dialect's own marks, if the dialect writes other arguments."""
    dialect = prompt.dialect
    if dialect.call_json is not None or dialect.form.tags is None:
        return prompt
    opening, closing = dialect.form.tags
    form = json_members(opening, opening="\n", closing=f"\n{closing}")
    as_json = replace(
        dialect.form, parse_function=lambda _: json_calls_between(opening, closing), call_json=form
    )
    return replace(prompt, dialect=replace(dialect, form=as_json))


def _never(prompt: ChatPrompt, form: CallJson) -> tuple[str, ...]:
    """Marks that belong only in calls: text with one might be read as a call outside of the grammar."""
    thinks = prompt.dialect.thinks or ()
    inside = form.before + form.between
    return tuple(mark for mark in prompt.dialect.marks if mark in inside and mark not in thinks)


def _harmony(writer: GrammarWriter, tools: Tools, final: str) -> CallGrammar:
    """Messages on channels. `final`: the text of a message on the channel `final`; "TEXT" is any text.

    A call's recipient comes before or after its channel.
    """
    start, channel, message = (
        f"mark_{writer.mark(mark)}" for mark in (harmony.START, harmony.CHANNEL, harmony.MESSAGE)
    )
    constrain, end, call_end = (
        f"mark_{writer.mark(mark)}" for mark in (harmony.CONSTRAIN, harmony.END, harmony.CALL)
    )
    kind = writer.rule("kind", f'/ ?/ {constrain} "json"', '" json"', '""')
    calls = []
    for i, (name, tool) in enumerate(tools.items()):
        arguments, named = writer.json(f"arguments_{i}", tool), quoted(name)
        before = f'" to=functions." {named} {channel} "commentary" {kind}'
        behind = f'{channel} "commentary to=functions." {named} {kind}'
        calls.append(f"({before} | {behind}) {message} {arguments} {call_end}")
    writer.rule("call", *calls)
    writer.rule("remark", f'{channel} ("analysis" | "commentary") {message} TEXT')
    if final == "TEXT":
        writer.rule("remark_or_final", "remark", f'{channel} "final" {message} TEXT')
        writer.rule("start", f'(remark_or_final {end} {start} "assistant")* (remark_or_final | call)')
    else:
        last = f'{channel} "final" {message} {final}'
        writer.rule("start", f'(remark {end} {start} "assistant")* (remark | call | {last})')
    return writer.finished()


def _llama_calls(writer: GrammarWriter, form: CallJson, tools: Tools, *, parallel: bool) -> str:
    form = replace(form, opening=form.trigger + form.before, trigger="", before="")
    whole = replace(form, before=form.opening, opening="", separator=";")
    return write_calls(writer, whole, tools, parallel=parallel)


def _llama_json(
    writer: GrammarWriter, form: CallJson, tools: Tools, prompt: ChatPrompt, *, parallel: bool
) -> CallGrammar:
    """Objects at the very beginning, after thinking or after the tag; an object there is a call."""
    calls = _llama_calls(writer, form, tools, parallel=parallel)
    writer.rule("PLAIN", r"/[ \t\r\n]*([^{ \t\r\n](?s:.*))?/ & TEXT")
    writer.rule("plain", "PLAIN (others TEXT)*")
    writer.rule("answered", calls, f"plain (mark_{writer.mark(llama_json.TAG)} ({calls} | plain))*")
    choices = ["answered"]
    if prompt.dialect.thinks is not None:
        opening, closing = (writer.mark(mark) for mark in prompt.dialect.thinks)
        rest = f"(until_{closing} answered | TEXT)"
        opened = is_opened(prompt.dialect, prompt.text)
        choices = [rest] if opened else ["answered", f"begin_{opening} {rest}"]
    writer.rule("start", *choices)
    return writer.finished((llama_json.TAG,))
