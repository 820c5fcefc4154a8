"""Tools in a system message of ours, where calls in the template's form cannot be held to a schema."""

from dataclasses import replace

from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats.table import NONE
from vram_llm.chat.formats.thinking_marks import DEFAULT


def explained(dialect: Dialect) -> Dialect:
    """The same model, asked for Hermes's calls as one is whose template shows no tools.

    Thinking is read as before. A model that frames its answers and is not known to think begins with the
    answer itself (`answer_begins`).
    """
    thinking = dialect.thinking
    form = NONE if thinking else replace(NONE, answer_begins=dialect.form.answer_begins)
    marks = form.marks + (thinking or DEFAULT).marks
    return replace(dialect, name=form.name, takes_tools=False, form=form, marks=marks)
