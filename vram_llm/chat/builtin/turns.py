"""Templates that write each message between fixed texts, and the Jinja source of one."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_SPACES = " \t\n\v\f\r"  # isspace of C
TRIMMED = f"message.content.strip({json.dumps(_SPACES)})"
_VALUES = {
    "role": "message.role",
    "Role": "(message.role[:1].upper() ~ message.role[1:])",
    "ROLE": "message.role.upper()",
    "content": "message.content",
    "trimmed": TRIMMED,
}
_VALUE = re.compile(r"\{(role|Role|ROLE|content|trimmed)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Texts of messages by role, in which {role}, {content} and {trimmed} are the message's.

    A message of a role without a text of its own is written as `other`. `opening` comes before the first
    message, and after each answer; with a `later_opening` it is there even without a message, and later ones
    are that text. `between`: before each message but the first.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    other: str = ""
    start: str = ""
    start_without_system: str = ""  # if the first message is not the system's
    first_system: str = ""  # a system message that is the first one; "": as `roles` says
    opening: str = ""
    later_opening: str | None = None
    between: str = ""
    after_last_user: str = ""  # if the chat ends with the user's message
    answer: str = ""  # opens the assistant's turn

    def source(self) -> str:
        """The Jinja source."""
        return "".join(self._parts())

    def _parts(self) -> Iterator[str]:
        yield written(self.start)
        if self.start_without_system:
            yield _if("not messages or messages[0].role != 'system'", written(self.start_without_system))
        if self.opening:
            is_open = self.later_opening is not None
            yield written(self.opening) if is_open else ""
            yield f"{{% set turn = namespace(is_open={str(is_open).lower()}) %}}"
        yield "{% for message in messages %}"
        if self.opening:
            later = self.opening if self.later_opening is None else self.later_opening
            yield _if("not turn.is_open", f"{written(later)}{{% set turn.is_open = true %}}")
        if self.between:
            yield _if("not loop.first", written(self.between))
        yield self._message()
        yield "{% endfor %}"
        if self.answer:
            yield _if("add_generation_prompt", written(self.answer))

    def _message(self) -> str:
        cases = [
            (f"message.role == {json.dumps(role)}", self._of(role, text)) for role, text in self._texts()
        ]
        if self.first_system:
            cases.insert(0, ("loop.first and message.role == 'system'", written(self.first_system)))
        other = self._of("", self.other)
        if not cases:
            return other
        first, *more = cases
        tests = "".join(f"{{% elif {test} %}}{text}" for test, text in more)
        return f"{{% if {first[0]} %}}{first[1]}{tests}{{% else %}}{other}{{% endif %}}"

    def _texts(self) -> list[tuple[str, str]]:
        """The texts by role; the assistant's too if it closes a turn."""
        texts = dict(self.roles)
        if self.opening and "assistant" not in texts:
            texts["assistant"] = self.other
        return list(texts.items())

    def _of(self, role: str, text: str) -> str:
        source = written(text)
        if self.opening and role in ("assistant", ""):
            source += "{% set turn.is_open = false %}"
        if self.after_last_user and role == "user":
            source += _if("loop.last", written(self.after_last_user))
        return source


def written(text: str) -> str:
    """The Jinja expression that writes `text`, with the values of the message."""
    pieces = _VALUE.split(text)
    values = [json.dumps(piece, ensure_ascii=False) if i % 2 == 0 else _VALUES[piece]
              for i, piece in enumerate(pieces) if i % 2 or piece]  # fmt: skip
    return "{{ " + " ~ ".join(values) + " }}" if values else ""


def _if(test: str, source: str) -> str:
    return f"{{% if {test} %}}{source}{{% endif %}}"
