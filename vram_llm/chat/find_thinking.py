"""The marks around thinking, as a chat template writes them.

A template that shows earlier thinking writes the marks that its model writes. A template that never shows it
may still open or close thinking at the end of a prompt. If a template does neither, its text may name a known
pair of marks.
"""

import re
from itertools import takewhile
from typing import Any

from vram_llm.chat.formats.thinking_marks import DEFAULT, MARK, ThinkingMarks
from vram_llm.chat.template_probe import ANSWER, CALLS, THOUGHT, TemplateProbe

_KNOWN = (  # models whose templates show no thinking; the marks come from the model cards
    ThinkingMarks("", "[BEGIN FINAL RESPONSE]", "\n[BEGIN FINAL RESPONSE]\n", end="[END FINAL RESPONSE]"),
    ThinkingMarks("[THINK]", "[/THINK]", "[/THINK]"),
    DEFAULT,
)
_FIELDS = ("reasoning_content", "reasoning", "thinking")  # a message's fields for its thinking
_RESPONSE = ("<response>", "</response>")  # around the answer of ibm-granite/granite-3.3


def find_thinking(probe: TemplateProbe) -> ThinkingMarks | None:
    """The marks around thinking; None if the template shows none. Renders it some 20 times."""
    return _from_history(probe) or _from_prompts(probe) or _known(probe)


def _from_history(probe: TemplateProbe) -> ThinkingMarks | None:
    thought: dict[str, Any] = dict.fromkeys(_FIELDS, THOUGHT)
    parts = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]
    blocks = {"blocks": [{"type": "thoughts", "text": THOUGHT}, {"type": "response", "text": ANSWER}]}
    for content in (ANSWER, parts, blocks):
        shown = probe.shown({"content": content, **(thought if content is ANSWER else {})})
        before, _, after = shown.partition(THOUGHT)
        between, separator, end = after.partition(ANSWER)
        if separator and not _is_dumped(shown):
            field = _field(probe, content, {}) if content is ANSWER else "content" if content is parts else ""
            return _around(probe, before, between, end, field)
    for content in (ANSWER, ""):
        called = {"tool_calls": CALLS}
        shown = probe.shown({"content": content, **thought, **called}, tools=True)
        before, separator, after = shown.partition(THOUGHT)
        if separator and not _is_dumped(shown):
            after = after.partition(ANSWER)[0]
            space = after[: len(after) - len(after.lstrip())]
            field = _field(probe, content, called)
            return _around(probe, before, space + _unit(after.lstrip()), "", field)
    return None


def _field(probe: TemplateProbe, content: str, called: dict[str, Any]) -> str:
    """The first of _FIELDS that the template shows alone."""

    def shows(field: str) -> bool:
        return THOUGHT in probe.shown({"content": content, field: THOUGHT, **called}, tools=bool(called))

    return next(filter(shows, _FIELDS), "")


def _around(probe: TemplateProbe, before: str, between: str, end: str, field: str) -> ThinkingMarks | None:
    """`before`, `between`, `end`: the texts around the thought and the answer."""
    on, off = probe.tail_on, probe.tail_off
    plain = probe.shown({"content": ANSWER})
    head, separator, plain_end = plain.partition(ANSWER)
    past = probe.shown({"content": ANSWER}, past=True).partition(ANSWER)[0]
    words = on[len(before) :] if on.startswith(before) else ""  # text with which only a prompt opens thinking
    opens = _behind(before, head, past, on, off) or words or _last(before)
    closing = _unit(between.strip())
    if not closing:
        return None
    wrap = between.strip()[len(closing) :].strip()
    direct = head[len(on) :] if separator and on and head.startswith(on) else ""
    direct = direct if MARK.search(direct) and closing not in direct else ""
    mark = direct.strip() or wrap
    answer = mark if MARK.search(mark) else ""
    skipped = off[len(on) :] if off.startswith(on) else ""
    skipped = skipped if opens.strip() in skipped and closing in skipped else ""
    return ThinkingMarks(
        opening=opens.strip(),
        closing=closing,
        closes=between if wrap or not direct else between + direct,
        skips=skipped + direct if skipped or direct else opens + between,
        answer=answer,
        header=wrap.removesuffix(answer).strip() if answer else "",
        end=_unit((end or plain_end).strip()) if answer else "",
        field=field,
    )


def _from_prompts(probe: TemplateProbe) -> ThinkingMarks | None:
    """The marks that a prompt without thinking has in addition: a pair, or only the closing mark."""
    on, off = probe.tail_on, probe.tail_off
    if not off.startswith(on) or not (marks := MARK.findall(added := off[len(on) :])):
        return None
    closing = marks[-1]
    opening = added[: added.rindex(closing)].strip() or _last(on).strip()
    if not opening:
        return None
    if on.rstrip().endswith(opening):
        return ThinkingMarks(opening, closing, closes=added, skips=on[on.rindex(opening) :] + added)
    closes = added[added.index(opening) + len(opening) :]
    return ThinkingMarks(opening, closing, closes.replace("\n\n", "\n", 1), skips=added)


def _known(probe: TemplateProbe) -> ThinkingMarks | None:
    on = probe.tail_on.rstrip()
    text = probe.source + probe.prompt({"thinking": True})
    for marks in _KNOWN:
        if marks.closing in text or (marks.opening and on.endswith(marks.opening)):
            if marks.opening == "<think>" and _RESPONSE[0] in text:
                return ThinkingMarks(
                    marks.opening,
                    marks.closing,
                    marks.closing + _RESPONSE[0],
                    answer=_RESPONSE[0],
                    end=_RESPONSE[1],
                )
            return marks
    return None


def _is_dumped(shown: str) -> bool:
    """Whether a template dumps a message or its parts, with the names of their fields."""
    return shown.count(THOUGHT) > 1 or re.search(r"""['"](type|text)['"]\s*:""", shown) is not None


def _behind(before: str, *heads: str) -> str:
    """`before` without the beginning that it shares with a head; for the first head that leaves a rest."""
    for head in heads:
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, head, strict=False))))
        cut = shared if shared == len(head) else _snapped(before, shared)
        if cut > 0 and before[cut:].strip():
            return before[cut:]
    return ""


def _snapped(text: str, cut: int) -> int:
    """`cut`, moved back to the beginning of its mark or word; <a>name<b> begins with <a>."""
    marks = list(MARK.finditer(text))
    inside = next((mark.start() for mark in marks if mark.start() < cut < mark.end()), None)
    if inside is not None:
        return inside
    starts = {mark.end(): mark.start() for mark in marks}
    while cut > 0 and cut not in starts and not text[cut - 1].isspace():
        cut -= 1
    is_named = cut in starts and re.match(r"\w", text[cut:])
    return starts[cut] if is_named else cut


def _last(text: str) -> str:
    """The last mark of `text`, and the text after it."""
    marks = list(MARK.finditer(text))
    return text[marks[-1].start() :] if marks else ""


def _unit(text: str) -> str:
    """`text` up to the end of its first mark, or of a name between two marks; all of it without a mark."""
    mark = MARK.search(text)
    if mark is None:
        return text
    named = re.compile(rf"[^\s<>\[\]]+(?:{MARK.pattern})").match(text, mark.end())
    return text[: named.end() if named else mark.end()]
