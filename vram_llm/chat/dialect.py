"""Which way of writing tool calls and thinking a model was taught: its chat template shows it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from vram_llm.chat.efforts import Names, find_efforts
from vram_llm.chat.find_thinking import find_thinking
from vram_llm.chat.formats import harmony, mistral
from vram_llm.chat.formats.arguments import Schemas
from vram_llm.chat.formats.call_json import CallJson
from vram_llm.chat.formats.table import FORMATS, NONE
from vram_llm.chat.formats.thinking import DEFAULT, Thinking, begun, framed, plain
from vram_llm.chat.probe import Probe
from vram_llm.chat.reader import Grammar, Parser, call_id


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a model writes.

    `marks` are the special tokens its parser must see. `takes_tools`: the template shows tools to the model
    in a form that is parsed here; otherwise they go into a system message of ours, and calls come as
    `hermes`. `thinking`: what the model writes around its thinking, None for one not known to think.
    `efforts`: for each effort, the names with which the template takes it; {} where it takes none.
    `call_begins`: the text after which a JSON object with a name and arguments is a call. `call_json`: how
    calls are written, None where their arguments are no JSON.
    """

    name: str
    takes_tools: bool
    grammar: Callable[[Schemas], Grammar]
    marks: tuple[str, ...]
    thinking: Thinking | None = None
    efforts: Mapping[str, Names] = field(default_factory=dict)
    call_begins: str = ""
    call_json: CallJson | None = None

    @property
    def new_id(self) -> Callable[[], str]:
        """Makes ids for calls, such as the template takes back."""
        return mistral.new_id if self.name == "mistral" else call_id

    @property
    def thinks(self) -> tuple[str, str] | None:
        """What opens the thinking ("" where it begins without a mark), and what closes it."""
        return None if self.thinking is None else (self.thinking.opening, self.thinking.closing)

    @property
    def closes(self) -> str:
        """The text from the end of the thinking to the answer, as the template writes it."""
        return "" if self.thinking is None else self.thinking.closes

    def answering(self, prompt: str) -> str:
        """`prompt` with its answer begun: no thinking comes before what is written next."""
        if self.name == "harmony":
            return f"{prompt}{harmony.CHANNEL}final{harmony.MESSAGE}"
        return prompt if self.thinking is None else self.thinking.closed(prompt)

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
        if self.thinking is None:
            return Parser(begun(grammar), self.new_id)
        opened, closed = self.thinking.is_opened(prompt), self.thinking.is_closed(prompt)
        calls = () if schemas is None else self.marks[:1]
        return Parser(framed(self.thinking, grammar, opened=opened, closed=closed, calls=calls), self.new_id)


@lru_cache(maxsize=128)
def dialect_of(template: str | None) -> Dialect:
    """The dialect of a chat template's source; None is a model without one."""
    source = template or ""
    found = next((each for each in FORMATS if each.is_in(source)), NONE)
    takes_tools = found is not NONE and re.search(r"\btools\b", source) is not None
    spoken = found if takes_tools or found.name == "harmony" else NONE
    probe = Probe(source)
    thinking = find_thinking(probe)
    return Dialect(
        name=found.name,
        takes_tools=takes_tools,
        grammar=spoken.grammar,
        marks=spoken.marks + (thinking or DEFAULT).marks,
        thinking=thinking,
        efforts=find_efforts(probe),
        call_begins=spoken.call_begins,
        call_json=spoken.call_json,
    )
