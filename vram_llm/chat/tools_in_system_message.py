"""Tools in a system message of this server, if no grammar can constrain the template's form of calls."""

from dataclasses import replace

from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats.table import NONE
from vram_llm.chat.formats.thinking_marks import DEFAULT


def with_tools_in_system_message(dialect: Dialect) -> Dialect:
    """The dialect that asks for Hermes's calls, as for a model whose template shows no tools.

    Thinking is parsed as before. A model that frames its answers and is not known to think begins with the
    answer itself (`answer_begins`).
    """
    thinking = dialect.thinking
    form = NONE if thinking else replace(NONE, answer_begins=dialect.form.answer_begins)
    marks = form.marks + (thinking or DEFAULT).marks
    return replace(dialect, name=form.name, takes_tools=False, form=form, marks=marks)
