"""Which way of writing tool calls and thinking a model was taught: its chat template shows it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vram_llm.chat.formats import (
    deepseek,
    glm,
    harmony,
    hermes,
    llama_json,
    mistral,
    nemotron,
    qwen_xml,
)
from vram_llm.chat.formats.thinking import plain, thinking
from vram_llm.chat.reader import Grammar, Parser, call_id

Schemas = Mapping[str, Mapping[str, Any]]  # a tool's name, and the JSON schema of its parameters
_THINK = ("<think>", "</think>")
_MISTRAL_THINK = ("[THINK]", "[/THINK]")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a model writes.

    `marks` are the special tokens its parser must see. `takes_tools`: the template shows tools to the model
    in a form that is parsed here; otherwise they go into a system message of ours, and calls come as
    `hermes`. `effort`: the name under which the template takes a reasoning effort ("" for none);
    "enable_thinking" can only be on or off.
    """

    name: str
    takes_tools: bool
    grammar: Callable[[Schemas], Grammar]
    marks: tuple[str, ...]
    thinks: tuple[str, str] | None = None
    effort: str = ""

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
        return self.answering(prompt) + _CALL_BEGINS.get(self.name, "")

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


_Row = tuple[str, Callable[[str], bool], Callable[[Schemas], Grammar], tuple[str, ...]]
_ROWS: tuple[_Row, ...] = (  # the first that holds; a template may show the marks of an older format as well
    (
        "harmony",
        lambda t: "<|channel|>" in t and "<|message|>" in t,
        lambda _: harmony.harmony,
        (
            harmony.START, harmony.CHANNEL, harmony.MESSAGE, harmony.CONSTRAIN, harmony.END, harmony.CALL,
            harmony.RETURN,
        ),
    ),
    (
        "mistral",
        lambda t: mistral.CALLS in t,
        lambda _: mistral.mistral,
        (mistral.CALLS, mistral.ARGS, mistral.CALL_ID),
    ),
    (
        "deepseek",
        lambda t: deepseek.CALLS in t,
        lambda _: deepseek.deepseek,
        (deepseek.CALLS, deepseek.CALLS_END, deepseek.CALL, deepseek.CALL_END, deepseek.SEP),
    ),
    ("nemotron", lambda t: nemotron.OPEN in t, lambda _: nemotron.nemotron, (nemotron.OPEN, nemotron.CLOSE)),
    (
        "glm",
        lambda t: "<arg_key>" in t and glm.OPEN in t,
        glm.glm,
        (glm.OPEN, glm.CLOSE, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    (
        "qwen-xml",
        lambda t: qwen_xml.OPEN in t and qwen_xml.FUNCTION in t,
        qwen_xml.qwen_xml,
        (qwen_xml.OPEN, qwen_xml.CLOSE),
    ),
    (
        "hermes",
        lambda t: hermes.OPEN in t and re.search(r'\\?"arguments\\?"', t) is not None,
        lambda _: hermes.hermes,
        (hermes.OPEN, hermes.CLOSE),
    ),
    (
        "llama-json",
        lambda t: '"parameters"' in t and "<|start_header_id|>" in t,
        lambda schemas: llama_json.llama_json(frozenset(schemas)),
        (llama_json.TAG,),
    ),
)  # fmt: skip
_NONE: _Row = ("none", lambda _: True, lambda _: hermes.hermes, (hermes.OPEN, hermes.CLOSE))


_CALL_BEGINS = {
    "hermes": f"{hermes.OPEN}\n",
    "none": f"{hermes.OPEN}\n",
    "qwen-xml": f"{hermes.OPEN}\n",
    "mistral": f"{mistral.CALLS}[",
    "nemotron": f"{nemotron.OPEN}[",
}


@lru_cache(maxsize=4)
def dialect_of(template: str | None) -> Dialect:
    """The dialect of a chat template's source; None is a model without one."""
    source = template or ""
    name, _, grammar, marks = next((row for row in _ROWS if row[1](source)), _NONE)
    takes_tools = name != "none" and re.search(r"\btools\b", source) is not None
    if not takes_tools and name != "harmony":
        _, _, grammar, marks = _NONE
    thinks = _thinks(source, name)
    return Dialect(
        name=name,
        takes_tools=takes_tools,
        grammar=grammar,
        marks=marks + (thinks or ()),
        thinks=thinks,
        effort=_effort(source),
    )


def _thinks(source: str, name: str) -> tuple[str, str] | None:
    if name == "harmony":
        return None
    if _MISTRAL_THINK[0] in source:
        return _MISTRAL_THINK
    return _THINK if _THINK[1] in source else None


def _effort(source: str) -> str:
    return next((word for word in ("reasoning_effort", "enable_thinking") if word in source), "")
