"""The marks around thinking, as a chat template itself writes them.

A template that shows earlier thinking writes the marks which its model writes. One that never shows it may
still open or close thinking at the end of a prompt. Where a template does neither, its text names a pair of
marks that is known.
"""

import re
from itertools import takewhile
from typing import Any

from vram_llm.chat.formats.thinking_marks import DEFAULT, MARK, ThinkingMarks
from vram_llm.chat.probe import ANSWER, CALLS, THOUGHT, Probe

_KNOWN = (  # models whose templates show no thinking; their marks are the model cards'
    ThinkingMarks("", "[BEGIN FINAL RESPONSE]", "\n[BEGIN FINAL RESPONSE]\n", end="[END FINAL RESPONSE]"),
    ThinkingMarks("[THINK]", "[/THINK]", "[/THINK]"),
    DEFAULT,
)
_FIELDS = ("reasoning_content", "reasoning", "thinking")  # of a message, for its thinking
_RESPONSE = ("<response>", "</response>")  # around the answer of ibm-granite/granite-3.3


def find_thinking(probe: Probe) -> ThinkingMarks | None:
    """The marks around thinking; None where the template shows none. Renders it some 20 times."""
    return _from_history(probe) or _from_prompts(probe) or _known(probe)


def _from_history(probe: Probe) -> ThinkingMarks | None:
    thought: dict[str, Any] = dict.fromkeys(_FIELDS, THOUGHT)
    parts = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]
    blocks = {"blocks": [{"type": "thoughts", "text": THOUGHT}, {"type": "response", "text": ANSWER}]}
    for content in (ANSWER, parts, blocks):
        shown = probe.shown({"content": content, **(thought if content is ANSWER else {})})
        before, _, after = shown.partition(THOUGHT)
        between, found, end = after.partition(ANSWER)
        if found and not _is_dumped(shown):
            field = _field(probe, content, {}) if content is ANSWER else "content" if content is parts else ""
            return _around(probe, before, between, end, field)
    for content in (ANSWER, ""):
        called = {"tool_calls": CALLS}
        shown = probe.shown({"content": content, **thought, **called}, tools=True)
        before, found, after = shown.partition(THOUGHT)
        if found and not _is_dumped(shown):
            after = after.partition(ANSWER)[0]
            space = after[: len(after) - len(after.lstrip())]
            field = _field(probe, content, called)
            return _around(probe, before, space + _unit(after.lstrip()), "", field)
    return None


def _field(probe: Probe, content: str, called: dict[str, Any]) -> str:
    """The first of _FIELDS that the template shows alone."""

    def shows(field: str) -> bool:
        return THOUGHT in probe.shown({"content": content, field: THOUGHT, **called}, tools=bool(called))

    return next(filter(shows, _FIELDS), "")


def _around(probe: Probe, before: str, between: str, end: str, field: str) -> ThinkingMarks | None:
    """`before`, `between`, `end`: the texts around the thought and the answer."""
    on, off = probe.tail_on, probe.tail_off
    plain = probe.shown({"content": ANSWER})
    head, found, plain_end = plain.partition(ANSWER)
    past = probe.shown({"content": ANSWER}, past=True).partition(ANSWER)[0]
    words = on[len(before) :] if on.startswith(before) else ""  # with which only a prompt opens the thinking
    opens = _behind(before, head, past, on, off) or words or _last(before)
    closing = _unit(between.strip())
    if not closing:
        return None
    wrap = between.strip()[len(closing) :].strip()
    direct = head[len(on) :] if found and on and head.startswith(on) else ""
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


def _from_prompts(probe: Probe) -> ThinkingMarks | None:
    """From what thinking switched off adds to a prompt: a pair of marks, or what closes the opened one."""
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


def _known(probe: Probe) -> ThinkingMarks | None:
    on = probe.tail_on.rstrip()
    text = probe.source + probe.prompt({"thinking": True})
    for each in _KNOWN:
        if each.closing in text or (each.opening and on.endswith(each.opening)):
            if each.opening == "<think>" and _RESPONSE[0] in text:
                return ThinkingMarks(
                    each.opening,
                    each.closing,
                    each.closing + _RESPONSE[0],
                    answer=_RESPONSE[0],
                    end=_RESPONSE[1],
                )
            return each
    return None


def _is_dumped(shown: str) -> bool:
    """Whether a template writes a message or its parts as they are, with the names of their fields."""
    return shown.count(THOUGHT) > 1 or re.search(r"""['"](type|text)['"]\s*:""", shown) is not None


def _behind(before: str, *heads: str) -> str:
    """The end of `before` behind the beginning that it shares with the first of `heads` to leave one."""
    for head in heads:
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, head, strict=False))))
        cut = shared if shared == len(head) else _snapped(before, shared)
        if cut > 0 and before[cut:].strip():
            return before[cut:]
    return ""


def _snapped(text: str, cut: int) -> int:
    """`cut`, moved to the beginning of the mark or the word that it divides; in <a>name<b>, of <a>."""
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
    """The last mark of `text`, and what follows it."""
    marks = list(MARK.finditer(text))
    return text[marks[-1].start() :] if marks else ""


def _unit(text: str) -> str:
    """`text` up to the end of its first mark, or of a name between two marks; all of it if it has none."""
    mark = MARK.search(text)
    if mark is None:
        return text
    named = re.compile(rf"[^\s<>\[\]]+(?:{MARK.pattern})").match(text, mark.end())
    return text[: named.end() if named else mark.end()]
