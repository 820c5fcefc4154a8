"""Which way of writing tool calls and thinking a model was taught: its chat template shows it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from vram_llm.chat.formats import harmony, mistral
from vram_llm.chat.formats.arguments import Schemas
from vram_llm.chat.formats.call_json import CallJson
from vram_llm.chat.formats.table import FORMATS, NONE
from vram_llm.chat.formats.thinking import plain, thinking
from vram_llm.chat.reader import Grammar, Parser, call_id

_THINK = ("<think>", "</think>")
_MISTRAL_THINK = ("[THINK]", "[/THINK]")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a model writes.

    `marks` are the special tokens its parser must see. `takes_tools`: the template shows tools to the model
    in a form that is parsed here; otherwise they go into a system message of ours, and calls come as
    `hermes`. `effort`: the name under which the template takes a reasoning effort ("" for none);
    "enable_thinking" can only be on or off. `call_begins`: the text after which a JSON object with a name and
    arguments is a call. `call_json`: how calls are written, None where their arguments are no JSON.
    """

    name: str
    takes_tools: bool
    grammar: Callable[[Schemas], Grammar]
    marks: tuple[str, ...]
    thinks: tuple[str, str] | None = None
    effort: str = ""
    call_begins: str = ""
    call_json: CallJson | None = None

    @property
    def new_id(self) -> Callable[[], str]:
        """Makes ids for calls, such as the template takes back."""
        return mistral.new_id if self.name == "mistral" else call_id

    def answering(self, prompt: str) -> str:
        """`prompt` with its answer begun: no thinking comes before what is written next."""
        if self.name == "harmony":
            return f"{prompt}{harmony.CHANNEL}final{harmony.MESSAGE}"
        if self.thinks is None or prompt.rstrip().endswith(self.thinks[1]):
            return prompt
        opening, closing = self.thinks
        opened = prompt.rstrip().endswith(opening)
        return f"{prompt}{'' if opened else opening + chr(10)}\n{closing}\n\n"

    def calling(self, prompt: str) -> str:
        """`prompt` with a call begun, where a JSON object can be one."""
        if self.name == "harmony":
            return f"{prompt}{harmony.CHANNEL}commentary{harmony.MESSAGE}"
        return self.answering(prompt) + self.call_begins

    def parser(self, schemas: Schemas | None, prompt: str) -> Parser | None:
        """For an answer to `prompt`; None where all of it is content. `schemas` of None: no tools."""
        if self.name == "harmony":
            return Parser(harmony.harmony)
        grammar = plain if schemas is None else self.grammar(schemas)
        if self.thinks is not None:
            opening, closing = self.thinks
            opened = prompt.rstrip().endswith(opening)
            return Parser(thinking(opening, closing, grammar, opened=opened), self.new_id)
        return None if schemas is None else Parser(grammar, self.new_id)


@lru_cache(maxsize=4)
def dialect_of(template: str | None) -> Dialect:
    """The dialect of a chat template's source; None is a model without one."""
    source = template or ""
    found = next((each for each in FORMATS if each.is_in(source)), NONE)
    takes_tools = found is not NONE and re.search(r"\btools\b", source) is not None
    spoken = found if takes_tools or found.name == "harmony" else NONE
    thinks = _thinks(source, found.name)
    return Dialect(
        name=found.name,
        takes_tools=takes_tools,
        grammar=spoken.grammar,
        marks=spoken.marks + (thinks or ()),
        thinks=thinks,
        effort=_effort(source),
        call_begins=spoken.call_begins,
        call_json=spoken.call_json,
    )


def _thinks(source: str, name: str) -> tuple[str, str] | None:
    if name == "harmony":
        return None
    if _MISTRAL_THINK[0] in source:
        return _MISTRAL_THINK
    return _THINK if _THINK[1] in source else None


def _effort(source: str) -> str:
    return next((word for word in ("reasoning_effort", "enable_thinking") if word in source), "")
