"""An answer that continues the last message of the chat (continue_final_message, a prefill)."""

from collections.abc import Callable
from typing import Any

from vram_llm.chat.dialect import Dialect
from vram_llm.chat.formats.arguments import Schemas
from vram_llm.chat.reader import Parser
from vram_llm.errors import RequestError

Messages = list[dict[str, Any]]
_CUT = "qzCUTHEREzq"  # only letters: no template trims or escapes it


def check_continuable(messages: Messages) -> None:
    """Raises RequestError unless the last message is the assistant's and makes no calls."""
    last = messages[-1] if messages else {}
    at = f"messages[{len(messages) - 1}]"
    if last.get("role") != "assistant":
        raise RequestError("Only a last message of the assistant can be continued", "messages")
    if last.get("tool_calls"):
        raise RequestError(f"'{at}' calls tools, so it cannot be continued", f"{at}.tool_calls")


def continued_prompt(render: Callable[[Messages, bool], str], messages: Messages, dialect: Dialect) -> str:
    """The prompt of `messages`, ending with the text of the last message.

    `render(messages, add_generation_prompt)` is the template. A mark is put after the text, and the prompt is
    cut there. If the template leaves the message out or refuses it, the text follows a turn that the template
    opens. Thinking that the template opens before content is closed. Raises `render`'s errors, and
    RequestError for thinking of a model that is not known to think.
    """
    last = messages[-1]
    field = _continued_field(last)
    text: str = last.get(field) or ""
    if not text:
        return render(messages[:-1], True)
    try:
        prompt, cut, _ = render([*messages[:-1], {**last, field: text + _CUT}], False).rpartition(_CUT)
    except RequestError:
        prompt = cut = ""
    marks = dialect.thinking
    begun = prompt.removesuffix(text.lstrip())  # a template may trim the text
    if cut and (marks is None or begun == prompt or marks.is_opened(begun) is (field != "content")):
        return prompt
    if cut and field == "content":
        return dialect.begin_answer(begun) + text
    begun = render(messages[:-1], True)
    return (dialect.begin_answer(begun) if field == "content" else _thinking(begun, messages, dialect)) + text


def _thinking(prompt: str, messages: Messages, dialect: Dialect) -> str:
    """`prompt` with thinking begun."""
    marks = dialect.thinking
    if marks is None:
        at = f"messages[{len(messages) - 1}].reasoning_content"
        raise RequestError(f"This model is not known to think, so '{at}' cannot be continued", at)
    if marks.is_opened(prompt):
        return prompt
    line = "\n" if f"{marks.opening}\n" in marks.skips else ""
    return prompt + marks.opening + line


def continued_parser(dialect: Dialect, schemas: Schemas | None, last: dict[str, Any]) -> Parser | None:
    """The parser for the rest of an answer that begins with `last`; None if all of it is content."""
    form = dialect.form
    if form.thinks or (form.framed and dialect.thinking is None):
        parser = Parser(form.parse_function(schemas or {}), form.new_id)
        in_answer = _continued_field(last) == "content"
        parser.feed(form.answer_begins if in_answer or not form.thinks else form.thinks[0])
        return parser
    opening, closing = dialect.thinks or ("", "")
    return dialect.parser(schemas, opening if is_thinking(dialect, last) else closing)


def is_thinking(dialect: Dialect, last: dict[str, Any]) -> bool:
    """Whether the message `last` ends within the model's thinking."""
    if _continued_field(last) == "reasoning_content":
        return bool(last.get("reasoning_content"))
    if dialect.thinks is None:
        return False
    opening, closing = dialect.thinks
    content: str = last["content"]
    return bool(opening) and content.rfind(opening) > content.rfind(closing)


def _continued_field(last: dict[str, Any]) -> str:
    return "content" if last["content"] or not last.get("reasoning_content") else "reasoning_content"
