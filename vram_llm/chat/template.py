"""The model's own chat template: messages in, prompt out."""

import json
from datetime import datetime
from functools import cached_property, lru_cache
from traceback import walk_tb
from typing import Any

from jinja2 import Template, TemplateSyntaxError

from vram_llm.chat.sandbox import ChatSandbox, RenderBudget, TemplateRefused, budget
from vram_llm.chat.template_caps import TemplateCaps, find_caps
from vram_llm.errors import RequestError, VramLLMError

MESSAGES = "messages"  # the field at fault if a template refuses

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class BrokenTemplate(VramLLMError):
    """The template in the model file is broken: chats are impossible, plain completions are possible."""


def check_template(source: str, name: str) -> None:
    """Raises BrokenTemplate if `source` does not compile, fails on a chat, or shows no message.

    `name` is the name of the template in the error.
    """
    template = ChatTemplate(source, "", "")
    if template.fault:
        raise BrokenTemplate(f"{name} is not a Jinja template ({template.fault})")
    try:
        prompt = template.render([{"role": "user", "content": "needle"}], enable_thinking=True)
    except TemplateRefusal:
        return  # it needs another chat
    except RequestError as error:
        raise BrokenTemplate(f"{name} cannot write a chat: {error}") from None
    if "needle" not in prompt:
        raise BrokenTemplate(f"{name} leaves out the message of a chat; is it a chat template?")


class TemplateRefusal(RequestError):
    """The template refuses a chat by raise_exception."""


class ChatTemplate:
    """A template compiled once, rendered for every chat.

    `source` None (a model without a template) means ChatML, as in llama.cpp. If a source does not compile,
    every `render` raises BrokenTemplate, and `fault` is the reason.
    """

    def __init__(self, source: str | None, bos_token: str, eos_token: str) -> None:
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._template: Template | None = None
        self.fault = ""
        try:
            self._template = _compiled(CHATML if source is None else source)
        except TemplateSyntaxError as error:
            self.fault = f"line {error.lineno}: {error.message}"
        except (RecursionError, SyntaxError, MemoryError, OverflowError, ValueError) as error:
            self.fault = f"{type(error).__name__}: {error}"

    def render(
        self,
        messages: list[dict[str, Any]],
        /,
        *,
        add_generation_prompt: bool = True,
        tools: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt of `messages`, each {"role", "content", ...}; `kwargs` are variables of the template.

        `date_string` and `datetime` are today's unless `kwargs` has them (llama.cpp: common/chat.cpp,
        common_chat_extra_context). Blocks: call it in a thread. Raises BrokenTemplate. Raises RequestError if
        the template refuses these messages, fails on them, or exceeds its budget (8 times the messages and 1
        Mi characters).
        """
        if self._template is None:
            raise BrokenTemplate(
                f"The chat template in the model file does not compile ({self.fault}); "
                "use /v1/completions with a prompt of your own"
            )
        given: dict[str, Any] = self._without_tools
        if tools is not None:
            given = {"tools": tools}
            if "functions" in self._without_tools:
                given["functions"] = json.dumps(tools, ensure_ascii=False, indent=2)
        names = {**_today(), **given, **kwargs, "messages": messages}
        return self._run({**names, "add_generation_prompt": add_generation_prompt})

    @cached_property
    def caps(self) -> TemplateCaps:
        """The messages that it shows. Renders it some 30 times, once."""
        return find_caps(self._shows)

    @cached_property
    def _without_tools(self) -> dict[str, Any]:
        """The variables for a chat without tools: the first set that does not make the template fail.

        Most templates test for None. Some loop over the name without a test, so it stays undefined (Hermes,
        Command R+). Some join `functions`, a text, to another (FireFunction).
        """
        ways: tuple[dict[str, Any], ...] = ({"tools": None}, {}, {"tools": None, "functions": ""})
        for way in ways:
            try:
                self._run({**_today(), **way, "messages": [{"role": "user", "content": "a"}]})
            except TemplateRefusal:
                pass
            except RequestError:
                continue
            return way
        return ways[0]

    def _shows(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        try:
            return self.render(messages, tools=tools, enable_thinking=True)
        except VramLLMError:
            return ""

    def _run(self, names: dict[str, Any]) -> str:
        assert self._template is not None
        messages = names["messages"]
        limit = 2**20 + 8 * sum(len(str(value)) for m in messages for value in m.values())
        token = budget.set(RenderBudget(limit, names))
        try:
            return _write(self._template, {**names, **self._tokens})
        finally:
            budget.reset(token)


@lru_cache(maxsize=128)
def _compiled(source: str) -> Template:
    """The compiled source: the parts that ask what a template shows and the server share one.

    Raises jinja2.TemplateSyntaxError, RecursionError.
    """
    return ChatSandbox().compile_metered(source)


def _today() -> dict[str, str]:
    now = datetime.now()
    return {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}


def _write(template: Template, names: dict[str, Any]) -> str:
    pieces, length = [], 0
    try:
        for piece in template.generate(names):
            length += len(piece)
            budget.get().check_length(length)
            pieces.append(piece)
    except TemplateRefused as error:
        raise TemplateRefusal(
            f"The model's chat template refuses these messages: {error}", MESSAGES
        ) from None
    except RecursionError:
        raise RequestError("The model's chat template calls itself without end", MESSAGES) from None
    except Exception as error:  # untrusted code can raise anything
        what = f"{_line_of(error)}{error or type(error).__name__}"
        raise RequestError(f"The model's chat template fails on these messages: {what}", MESSAGES) from None
    return "".join(pieces)


def _line_of(error: Exception) -> str:
    """The line of the template that raised `error`, from the frames that jinja2 puts into its traceback."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return f"line {lines[-1]}: " if lines else ""
