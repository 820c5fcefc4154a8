"""The way in which a model writes tool calls and thinking, as its chat template shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from vram_llm.chat.efforts import Names, find_efforts
from vram_llm.chat.find_thinking import find_thinking
from vram_llm.chat.find_tools import TemplateTools, find_template_tools
from vram_llm.chat.formats.arguments import Schemas
from vram_llm.chat.formats.call_format import CallFormat
from vram_llm.chat.formats.call_json import CallJson
from vram_llm.chat.formats.table import NONE
from vram_llm.chat.formats.thinking import plain, separate_leading_thinking, separate_thinking
from vram_llm.chat.formats.thinking_marks import DEFAULT, ThinkingMarks
from vram_llm.chat.reader import Parser
from vram_llm.chat.template_probe import TemplateProbe


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a model writes tool calls and thinking.

    `marks` are the special tokens that its parser must see. `takes_tools`: the template shows tools in a form
    that is parsed here; otherwise a system message of this server shows them, and calls come as `hermes`.
    `thinking`: the marks around thinking; None for a model not known to think. `efforts`: the template's
    variables for each effort; {} if it has none.
    """

    name: str
    takes_tools: bool
    form: CallFormat
    marks: tuple[str, ...]
    thinking: ThinkingMarks | None = None
    efforts: Mapping[str, Names] = field(default_factory=dict)

    @property
    def new_id(self) -> Callable[[], str]:
        """Makes ids for calls, in the form that the template accepts."""
        return self.form.new_id

    @property
    def call_json(self) -> CallJson | None:
        """The form of calls; None if their arguments are not JSON."""
        return self.form.call_json

    @property
    def thinks(self) -> tuple[str, str] | None:
        """The marks before thinking ("" if it begins without a mark) and after it."""
        return None if self.thinking is None else (self.thinking.opening, self.thinking.closing)

    @property
    def closes(self) -> str:
        """The text from the end of the thinking to the answer, as the template writes it."""
        return "" if self.thinking is None else self.thinking.closes

    def begin_answer(self, prompt: str) -> str:
        """`prompt` with its answer begun, so that no thinking comes before it."""
        if self.form.thinks or self.thinking is None:
            return prompt + self.form.answer_begins
        return self.thinking.close_thinking(prompt)

    def begin_call(self, prompt: str) -> str:
        """`prompt` with a call begun, if a JSON object can be a call."""
        if self.form.thinks:
            return prompt + self.form.call_begins
        return self.begin_answer(prompt) + self.form.call_begins

    def parser(self, schemas: Schemas | None, prompt: str) -> Parser | None:
        """The parser for an answer to `prompt`; None if all of it is content. `schemas` None: no tools."""
        is_plain = schemas is None and not self.form.framed
        parse = plain if is_plain else self.form.parse_function(schemas or {})
        if self.form.thinks:
            return Parser(parse, self.new_id)
        if self.thinking is None:
            return Parser(separate_leading_thinking(parse), self.new_id)
        opened, closed = self.thinking.is_opened(prompt), self.thinking.is_closed(prompt)
        return Parser(separate_thinking(self.thinking, parse, opened=opened, closed=closed), self.new_id)


@lru_cache(maxsize=128)
def dialect_of(template: str | None) -> Dialect:
    """The dialect of a chat template's source; None: a model without a template."""
    source = template or ""
    tools_of_template = find_template_tools(source) if source else TemplateTools(None, shows_tools=False)
    template_form = tools_of_template.form or NONE
    takes_tools = tools_of_template.shows_tools and template_form is not NONE
    form = template_form if takes_tools or template_form.framed else NONE
    probe = TemplateProbe(source)
    thinking = find_thinking(probe)
    return Dialect(
        name=template_form.name,
        takes_tools=takes_tools,
        form=form,
        marks=form.marks + (thinking or DEFAULT).marks,
        thinking=thinking,
        efforts=find_efforts(probe),
    )
