"""The model's own chat template: messages in, prompt out."""

from functools import cached_property
from typing import Any

from jinja2 import Template, TemplateSyntaxError

from vram_llm.chat.sandbox import Budget, ChatSandbox, TemplateRefused, budget
from vram_llm.errors import RequestError, VramLLMError

MESSAGES = "messages"  # the field that is at fault where a template refuses

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class BrokenTemplate(VramLLMError):
    """The template in the model file is not one: no chat is possible, plain completions are."""


class ChatTemplate:
    """A template compiled once, rendered for every chat.

    `source` of None (a model without a template) takes ChatML, as llama.cpp does. A source that does not
    compile raises nothing here, but BrokenTemplate at every `render`.
    """

    def __init__(self, source: str | None, bos_token: str, eos_token: str) -> None:
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._knows_developer = source is not None and "developer" in source
        self._template: Template | None = None
        self._fault = ""
        try:
            self._template = ChatSandbox().compile_metered(CHATML if source is None else source)
        except TemplateSyntaxError as error:
            self._fault = f"line {error.lineno}: {error.message}"
        except (RecursionError, SyntaxError, MemoryError, OverflowError, ValueError) as error:
            self._fault = f"{type(error).__name__}: {error}"

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt of `messages`, each {"role", "content", ...}; `kwargs` are names for the template.

        A developer message is shown as a system message to a template that never speaks of developers
        (llama.cpp: common/chat.cpp, map_developer_role_to_system). Blocks: call it in a thread.
        Raises BrokenTemplate, and RequestError where the template refuses these messages, fails on
        them, or outgrows its budget (8 times the messages and 1 Mi characters).
        """
        if self._template is None:
            raise BrokenTemplate(
                f"The chat template in the model file does not compile ({self._fault}); "
                "use /v1/completions with a prompt of your own"
            )
        if not self._knows_developer:
            messages = [{**m, "role": "system"} if m.get("role") == "developer" else m for m in messages]
        limit = 2**20 + 8 * sum(len(str(value)) for m in messages for value in m.values())
        names = {**kwargs, **self._tokens, "messages": messages, "tools": tools}
        token = budget.set(Budget(limit))
        try:
            return _write(self._template, {**names, "add_generation_prompt": add_generation_prompt})
        finally:
            budget.reset(token)

    @cached_property
    def refuses_system(self) -> bool:
        """Whether it takes no system message, where it takes others."""
        user = {"role": "user", "content": "a"}
        return self._takes([user]) and not self._takes([{"role": "system", "content": "b"}, user])

    def _takes(self, messages: list[dict[str, Any]]) -> bool:
        try:
            self.render(messages)
        except VramLLMError:
            return False
        return True

    @cached_property
    def wants_parts(self) -> bool:
        """Whether content must be a list of parts: as text it is left out."""

        def shows(content: str | list[dict[str, str]]) -> bool:
            try:
                return "needle" in self.render([{"role": "user", "content": content}])
            except VramLLMError:
                return False

        return not shows("needle") and shows([{"type": "text", "text": "needle"}])

    @cached_property
    def wants_argument_text(self) -> bool:
        """Whether the arguments of earlier calls must be the text of a JSON object, not an object."""
        call = {"name": "f", "arguments": {"key": "value"}}
        schema = {"type": "object", "properties": {"other": {"type": "string", "description": "c"}}}
        tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "abcdefghi", "type": "function", "function": call}],
            },
            {"role": "tool", "content": "b", "tool_call_id": "abcdefghi", "name": "f"},
        ]
        try:
            return "{'key'" in self.render(messages, tools=[tool])  # written by Python, not by tojson
        except VramLLMError:
            return True


def _write(template: Template, names: dict[str, Any]) -> str:
    pieces, length = [], 0
    try:
        for piece in template.generate(names):
            length += len(piece)
            budget.get().check_length(length)
            pieces.append(piece)
    except TemplateRefused as error:
        raise RequestError(f"The model's chat template refuses these messages: {error}", MESSAGES) from None
    except RecursionError:
        raise RequestError("The model's chat template calls itself without end", MESSAGES) from None
    except Exception as error:  # whatever a stranger's program can raise
        what = str(error) or type(error).__name__
        raise RequestError(f"The model's chat template fails on these messages: {what}", MESSAGES) from None
    return "".join(pieces)
