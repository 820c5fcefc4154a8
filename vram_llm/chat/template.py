"""The model's own chat template: messages in, prompt out."""

import json
from datetime import datetime
from functools import cached_property
from typing import Any

from vram_llm.chat.render import Outcome, renderer
from vram_llm.chat.template_caps import TemplateCaps, find_caps
from vram_llm.errors import RequestError, VramLLMError

MESSAGES = "messages"  # the field at fault if a template refuses
MAX_PROBE_SECONDS = 3.0  # of processor time, to find what a template shows
_MAX_PROBE_CHARS = 1 << 16

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


class TemplateRanAway(RequestError):
    """The template took too much time or memory; to try it again in another way would take as much."""


class ChatTemplate:
    """A template compiled once, rendered for every chat.

    `source` None (a model without a template) means ChatML, as in llama.cpp. If a source does not compile,
    every `render` raises BrokenTemplate, and `fault` is the reason.
    """

    def __init__(self, source: str | None, bos_token: str, eos_token: str) -> None:
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._source = CHATML if source is None else source
        compiled = renderer()(self._source, None)
        if compiled.outcome is Outcome.ENDED:  # perhaps by something else
            compiled = renderer()(self._source, None)
        self.fault = compiled.text if compiled.outcome is not Outcome.TEXT else ""
        self.seconds = compiled.seconds  # of processor time, of all renderings

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
        if self.fault:
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
            except TemplateRanAway:
                break
            except RequestError:
                continue
            return way
        return ways[0]

    def probe(self, messages: list[dict[str, Any]], max_seconds: float, /, **more: Any) -> str:
        """`render` of a small chat that shows what the template writes; "" if it writes none.

        That is also so if its renderings took more than `max_seconds` of processor time so far, or it writes
        too much.
        """
        if self.seconds > max_seconds:
            return ""
        try:
            text = self.render(messages, **more)
        except (RequestError, BrokenTemplate):  # not if no process can be had: the answer is kept
            return ""
        return text if len(text) <= _MAX_PROBE_CHARS else ""

    def _shows(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        return self.probe(messages, MAX_PROBE_SECONDS, tools=tools, enable_thinking=True)

    def _run(self, names: dict[str, Any]) -> str:
        """The prompt. Raises RequestError."""
        rendering = renderer()(self._source, {**names, **self._tokens})
        self.seconds += rendering.seconds
        if rendering.outcome is Outcome.REFUSED:
            why = f"The model's chat template refuses these messages: {rendering.text}"
            raise TemplateRefusal(why, MESSAGES)
        if rendering.outcome is Outcome.ENDED:
            why = f"The model's chat template cannot write these messages: {rendering.text}"
            raise TemplateRanAway(why, MESSAGES)
        if rendering.outcome is not Outcome.TEXT:
            why = f"The model's chat template fails on these messages: {rendering.text}"
            raise RequestError(why, MESSAGES)
        return rendering.text


def _today() -> dict[str, str]:
    now = datetime.now()
    return {"date_string": now.strftime("%d %b %Y"), "datetime": now.strftime("%b %d %Y")}
