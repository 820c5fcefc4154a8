"""The messages that a chat template shows, found by rendering marked ones, never by searching its source.

A template may silently drop a message, or refuse it: a second system message, a developer's, the second of
two user messages in a row. `find_caps` renders a small chat for each kind and looks for its marks.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, islice, product
from typing import Any

Messages = list[dict[str, Any]]
Render = Callable[[Messages, list[dict[str, Any]] | None], str]  # a prompt; "" if the template refuses

_ROLE = "q7role7q"  # a role that no template knows
_PARAMETERS = {"type": "object", "properties": {"other": {"type": "string", "description": "c"}}}
_TOOL = {"type": "function", "function": {"name": "q7f", "description": "d", "parameters": _PARAMETERS}}
_ROLES = {
    "s": "system",
    "d": "developer",
    "x": _ROLE,
    "u": "user",
    "e": "user",
    "b": "assistant",
    "t": "tool",
    "l": "tool",
}
_CALLS = {
    "a": 0,
    "c": 1,
    "w": 1,
    "p": 2,
}  # letters of assistant messages, with their number of calls


def mark(number: int) -> str:
    """A text that no template has, trims or escapes. No mark is a part of another."""
    return f"q7mark{number}q"


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCaps:
    """The kinds of messages that a template shows, each with its whole text, and what it requires of them.

    llama.cpp has such `caps` too (common_chat_templates_get_caps in common/chat.h).
    """

    requires_typed_content: bool  # content must be a list of parts; text is not shown
    requires_text_arguments: bool  # the arguments of calls must be the text of a JSON object, not an object
    developer_role: bool  # as a role of its own; other templates get a system message
    developer_and_system: bool  # both roles in one chat, in their order
    system_role: bool  # one message, at the front
    two_system_messages: bool  # at the front
    late_system_message: bool  # after other messages
    consecutive_users: bool  # two user messages in a row
    consecutive_assistants: bool  # two messages of the assistant in a row
    assistant_first: bool  # a message of the assistant before any user message
    empty_answers: bool  # a message of the assistant without text
    calls: bool  # calls in an assistant's message
    requires_null_content: bool  # calls are shown only if the content is None, not ""
    parallel_calls: bool  # two calls in one message
    content_with_calls: bool  # both in one message
    content_before_calls: bool  # in two messages
    results: bool  # a tool's result, after calls in the form that the template shows
    results_without_calls: bool
    user_after_result: bool


def find_caps(render: Render) -> TemplateCaps:
    """The kinds of messages that `render` shows."""
    parts = not _CapsProbe(render).shows("u") and _CapsProbe(render, parts=True).shows("u")
    ways = [_CapsProbe(render, parts, *way) for way in product((False, True), repeat=2)]
    probe = next((way for way in ways if way.shows_calls("uct", "uctau")), ways[0])
    calls = probe.shows_calls("uct", "uctau")
    return TemplateCaps(
        requires_typed_content=parts,
        requires_text_arguments=probe.text_arguments,
        developer_role=probe.knows_developer(),
        developer_and_system=probe.shows("sdu", "dsu", "uadsu"),
        system_role=probe.shows("su", "suau"),
        two_system_messages=probe.shows("ssu", "ssuau"),
        late_system_message=probe.shows("us", "usu", "uasu", "suasu"),
        consecutive_users=probe.shows("uu", "uauu"),
        consecutive_assistants=probe.shows("uaau"),
        empty_answers=probe.shows("ubu") or not probe.shows("uau"),
        assistant_first=probe.shows("au", "auau") or not probe.shows("eau", "eauau"),
        calls=calls,
        requires_null_content=probe.null_content,
        parallel_calls=probe.shows("uptt", "upttau"),
        content_with_calls=probe.shows("uwt", "uwtau"),
        content_before_calls=probe.shows("uact", "uactau"),
        results=probe.shows(*(("uct", "uctau") if calls else ("uat", "uatau"))),
        results_without_calls=probe.shows("ul", "ulu"),
        user_after_result=probe.shows("uctu" if calls else "uatu"),
    )


@dataclass(frozen=True, slots=True)
class _CapsProbe:
    """Chats as words of the letters of _ROLES and _CALLS: "suau" is a system message, a user's, ...

    The message of an "e" or "b" is empty. An "l" is a result whose function has no name.
    """

    render: Render
    parts: bool = False
    null_content: bool = False
    text_arguments: bool = False

    def shows(self, *chats: str) -> bool:
        """Whether each prompt has every text of its chat, with system and developer messages in order."""
        return all(map(self._shows, chats))

    def shows_calls(self, *chats: str) -> bool:
        """Whether the arguments of a chat's call are in its prompt, not written as Python writes objects."""
        prompts = map(self._prompt, chats)
        return all(mark(100) in prompt and "{'key'" not in prompt for prompt in prompts)

    def knows_developer(self) -> bool:
        """Whether a developer's message is shown, and in another way than a role that no template knows."""
        stranger = self.render(self._chat("xu"), None).replace(_ROLE, "developer")
        return self.shows("du") and self.render(self._chat("du"), None) != stranger

    def _shows(self, chat: str) -> bool:
        prompt = self._prompt(chat)
        calls = sum(_CALLS.get(letter, 0) for letter in chat)
        texts = [mark(i) for i, letter in enumerate(chat) if letter not in "bcep"]
        texts += [mark(100 + i) for i in range(calls)]
        orders = [prompt.find(mark(i)) for i, letter in enumerate(chat) if letter in "sd"]
        return all(text in prompt for text in texts) and orders == sorted(orders)

    def _prompt(self, chat: str) -> str:
        return self.render(self._chat(chat), [_TOOL] if set(chat) & set("cwptl") else None)

    def _chat(self, chat: str) -> Messages:
        calls = map(self._call, count())
        messages: Messages = []
        for i, letter in enumerate(chat):
            message: dict[str, Any] = {
                "role": _ROLES.get(letter, "assistant"),
                "content": self._content(i, letter),
            }
            if n_calls := _CALLS.get(letter, 0):
                message["tool_calls"] = list(islice(calls, n_calls))
            if letter in "tl":
                number = sum(m["role"] == "tool" for m in messages)
                message |= {"tool_call_id": f"abcdefgh{number}"} | ({"name": "q7f"} if letter == "t" else {})
            messages.append(message)
        return messages

    def _content(self, number: int, letter: str) -> Any:
        if letter in "cp":
            return None if self.null_content else ""
        text = "" if letter in "be" else mark(number)
        return [{"type": "text", "text": text}] if self.parts else text

    def _call(self, number: int) -> dict[str, Any]:
        arguments: Any = {"key": mark(100 + number)}
        function = {
            "name": "q7f",
            "arguments": json.dumps(arguments) if self.text_arguments else arguments,
        }
        return {"id": f"abcdefgh{number}", "type": "function", "function": function}
