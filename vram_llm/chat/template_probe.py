"""A chat template rendered with marked messages: the text around them is what its model writes."""

from functools import cached_property
from typing import Any

from vram_llm.chat.template import MAX_PROBE_SECONDS, ChatTemplate

USER, THOUGHT, ANSWER = "q7user7q", "q7thought7q", "q7answer7q"
_NEXT = "q7next7q"
ON: dict[str, Any] = {
    "enable_thinking": True,
    "thinking": True,
    "thinking_mode": "enabled",
    "reasoning_effort": "high",
}
_OFF: dict[str, Any] = {"enable_thinking": False, "thinking": False, "thinking_mode": "disabled"}
_OFFS: tuple[dict[str, Any], ...] = (  # templates refuse values that they do not know
    {**_OFF, "thinking_budget": 0, "reasoning_effort": "none"},
    {**_OFF, "reasoning_effort": "no_think"},
    {**_OFF, "reasoning_effort": "minimal"},
    _OFF,
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "properties": {"a": {"type": "string", "description": "e"}}},
    },
}
CALLS = [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}]


class TemplateProbe:
    """One template. Every text is "" if the template refuses to write it.

    `max_seconds` of processor time are for all texts together, since a template is untrusted code. Time on
    the clock would make the result depend on the load of the machine.
    """

    def __init__(self, source: str, max_seconds: float = MAX_PROBE_SECONDS) -> None:
        self.source = source
        self._template = ChatTemplate(source, "", "")
        self._max_seconds = max_seconds

    def prompt(self, names: dict[str, Any]) -> str:
        """The prompt of one user message, before an answer."""
        return self._render([{"role": "user", "content": USER}], names, add_generation_prompt=True)

    def tail(self, names: dict[str, Any]) -> str:
        """The end of that prompt, after the user's text."""
        return self.prompt(names).rpartition(USER)[2]

    @cached_property
    def tail_on(self) -> str:
        """The end of a prompt for an answer with thinking."""
        return self.tail(ON)

    @cached_property
    def tail_off(self) -> str:
        """The end of a prompt for an answer without thinking: the first unlike `tail_on`, if any."""
        tails = [tail for names in _OFFS if (tail := self.tail(names))]
        return next((tail for tail in tails if tail != self.tail_on), tails[0] if tails else "")

    def shown(self, answer: dict[str, Any], *, past: bool = False, tools: bool = False) -> str:
        """An answer as the template writes it, after the user's text; `past`: another question follows."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": USER}, {"role": "assistant", **answer}]
        if past:
            messages.append({"role": "user", "content": _NEXT})
        names = {**ON, "tools": [_TOOL]} if tools else ON
        text = self._render(messages, names, add_generation_prompt=False)
        return text.partition(USER)[2].partition(_NEXT)[0]

    def _render(self, messages: list[dict[str, Any]], names: dict[str, Any], **more: Any) -> str:
        for given in (names, {"tools": [_TOOL], **names}):  # some templates fail without tools
            if text := self._template.probe(messages, self._max_seconds, **given, **more):
                return text
        return ""
