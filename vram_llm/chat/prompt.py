"""The prompt of a chat, and how the answer to it begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from vram_llm.chat import history
from vram_llm.chat.continuing import check_continuable, continued_parser, continued_prompt, is_thinking
from vram_llm.chat.dialect import Dialect
from vram_llm.chat.dropped_messages import check_none_dropped
from vram_llm.chat.formats.arguments import Schemas
from vram_llm.chat.plain_tools import plain_tools
from vram_llm.chat.reader import Parser
from vram_llm.chat.system_messages import SystemPlacement, placements
from vram_llm.chat.template import ChatTemplate, TemplateRanAway, TemplateRefusal
from vram_llm.errors import RequestError

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A prompt, and how the answer begins after it. `begun`: the message that the answer continues."""

    text: str
    dialect: Dialect
    begun: dict[str, Any] | None = None

    @property
    def is_thinking(self) -> bool:
        """Whether the message that the answer continues ends within the model's thinking."""
        return self.begun is not None and is_thinking(self.dialect, self.begun)

    def begin_answer(self) -> str:
        """The prompt with its answer begun, so that no thinking comes before it."""
        if self.begun is None:
            return self.dialect.begin_answer(self.text)
        if self.is_thinking:
            raise RequestError("An answer of a given form cannot continue the model's thinking", "messages")
        return self.text

    def begin_call(self) -> str:
        """The prompt with a call begun, if a JSON object can be a call."""
        if self.begun is None:
            return self.dialect.begin_call(self.text)
        if self.dialect.form.thinks:
            raise RequestError(
                "With this model, a forced call cannot continue a message; leave 'tool_choice' "
                "or the last message out",
                "tool_choice",
            )
        return f"{self.begin_answer().rstrip()}\n{self.dialect.form.call_begins}"

    def parser(self, schemas: Schemas | None) -> Parser | None:
        """The parser for the answer; None if all of it is content. `schemas` None: no tools."""
        if self.begun is None:
            return self.dialect.parser(schemas, self.text)
        return continued_parser(self.dialect, schemas, self.begun)


def chat_prompt(
    messages: Messages,
    tools: list[dict[str, Any]],
    template: ChatTemplate,
    dialect: Dialect,
    names: Mapping[str, Any],
    *,
    continues: bool = False,
    add_generation_prompt: bool = True,
) -> ChatPrompt:
    """The prompt of `messages` (see chat.history), with `names` for the template.

    `continues`: the answer continues the last message, which is the assistant's. `add_generation_prompt`: the
    prompt opens the assistant's turn. Blocks. Raises RequestError, BrokenTemplate.
    """

    native_tools = tools if tools and dialect.takes_tools else None

    def render(messages: Messages, add_generation_prompt: bool, placement: SystemPlacement) -> str:
        shown = history.messages_for_template(messages, tools, dialect, template, placement)
        with_tools = partial(template.render, shown, add_generation_prompt=add_generation_prompt, **names)
        try:
            return with_tools(tools=native_tools)
        except (TemplateRefusal, TemplateRanAway):
            raise
        except RequestError:
            if native_tools is None:
                raise
            try:
                return with_tools(tools=plain_tools(native_tools))
            except RequestError:
                pass
            raise

    def whole(messages: Messages, add_generation_prompt: bool) -> str:
        """The prompt with every message, by the first placement that works. Raises the first error."""
        errors: list[RequestError] = []
        for placement in placements(messages):
            again = partial(render, add_generation_prompt=add_generation_prompt, placement=placement)
            try:
                prompt = again(messages)
                check_none_dropped(messages, native_tools or [], prompt, again)
            except TemplateRanAway:
                raise
            except RequestError as error:
                errors.append(error)
            else:
                return prompt
        raise errors[0]

    if not continues:
        return ChatPrompt(whole(messages, add_generation_prompt), dialect)
    check_continuable(messages)
    return ChatPrompt(continued_prompt(whole, messages, dialect), dialect, messages[-1])
