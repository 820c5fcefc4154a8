"""The formats of tool calls, in the order in which a chat template's source is searched for them."""

import re
from collections.abc import Callable
from dataclasses import dataclass

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
from vram_llm.chat.formats.arguments import Schemas
from vram_llm.chat.formats.call_json import CallJson, json_members
from vram_llm.chat.reader import Grammar


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing calls.

    `is_in`: whether a template's source shows this format. `marks` are the special tokens that the parser
    must see. `call_begins`: the text after which a JSON object with a name and arguments is a call.
    `call_json` is None where arguments are no JSON.
    """

    name: str
    is_in: Callable[[str], bool]
    grammar: Callable[[Schemas], Grammar]
    marks: tuple[str, ...]
    call_begins: str = ""
    call_json: CallJson | None = None


HERMES = Format(
    name="hermes",
    is_in=lambda source: hermes.OPEN in source and re.search(r'\\?"arguments\\?"', source) is not None,
    grammar=lambda _: hermes.hermes,
    marks=(hermes.OPEN, hermes.CLOSE),
    call_begins=f"{hermes.OPEN}\n",
    call_json=json_members(hermes.OPEN, opening="\n", closing=f"\n{hermes.CLOSE}"),
)
NONE = Format(  # tools are shown in a system message of ours, which asks for calls as Hermes writes them
    name="none",
    is_in=lambda _: True,
    grammar=HERMES.grammar,
    marks=HERMES.marks,
    call_begins=HERMES.call_begins,
    call_json=HERMES.call_json,
)
_DEEPSEEK_MARKS = (deepseek.CALLS, deepseek.CALLS_END, deepseek.CALL, deepseek.CALL_END, deepseek.SEP)

FORMATS = (  # the first that a template shows; it may show the marks of an older format as well
    Format(
        name="harmony",
        is_in=lambda source: "<|channel|>" in source and "<|message|>" in source,
        grammar=lambda _: harmony.harmony,
        marks=(
            harmony.START, harmony.CHANNEL, harmony.MESSAGE, harmony.CONSTRAIN, harmony.END, harmony.CALL,
            harmony.RETURN,
        ),
        call_json=CallJson(
            trigger=f"{harmony.CHANNEL}commentary to=functions.",
            between=f" {harmony.CONSTRAIN}json{harmony.MESSAGE}",
            closing=harmony.CALL,
        ),
    ),
    Format(
        name="mistral",  # tokenizer v3: a list of objects
        is_in=lambda source: mistral.CALLS in source and mistral.ARGS not in source,
        grammar=lambda _: mistral.mistral,
        marks=(mistral.CALLS, mistral.ARGS, mistral.CALL_ID),
        call_begins=f"{mistral.CALLS}[",
        call_json=json_members(mistral.CALLS, opening="[", separator=", ", closing="]"),
    ),
    Format(
        name="mistral",  # tokenizer v11 and later: the name, then its arguments
        is_in=lambda source: mistral.CALLS in source,
        grammar=lambda _: mistral.mistral,
        marks=(mistral.CALLS, mistral.ARGS, mistral.CALL_ID),
        call_begins=f"{mistral.CALLS}[",
        call_json=CallJson(mistral.CALLS, between=mistral.ARGS),
    ),
    Format(
        name="deepseek",  # R1 and V3: the arguments in a fenced block
        is_in=lambda source: re.search(rf"\bfunction\W*{deepseek.SEP}|```json", source) is not None
        and deepseek.CALLS in source,
        grammar=lambda _: deepseek.deepseek,
        marks=_DEEPSEEK_MARKS,
        call_json=CallJson(
            trigger=deepseek.CALL,
            before=f"function{deepseek.SEP}",
            between="\n```json\n",
            after="\n```",
            closing=deepseek.CALL_END,
        ),
    ),
    Format(
        name="deepseek",  # V3.1
        is_in=lambda source: deepseek.CALLS in source,
        grammar=lambda _: deepseek.deepseek,
        marks=_DEEPSEEK_MARKS,
        call_json=CallJson(deepseek.CALL, between=deepseek.SEP, closing=deepseek.CALL_END),
    ),
    Format(
        name="nemotron",
        is_in=lambda source: nemotron.OPEN in source,
        grammar=lambda _: nemotron.nemotron,
        marks=(nemotron.OPEN, nemotron.CLOSE),
        call_begins=f"{nemotron.OPEN}[",
        call_json=json_members(nemotron.OPEN, opening="[", separator=", ", closing=f"]{nemotron.CLOSE}"),
    ),
    Format(
        name="glm",
        is_in=lambda source: "<arg_key>" in source and glm.OPEN in source,
        grammar=glm.glm,
        marks=(glm.OPEN, glm.CLOSE, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    ),
    Format(
        name="qwen-xml",
        is_in=lambda source: qwen_xml.OPEN in source and qwen_xml.FUNCTION in source,
        grammar=qwen_xml.qwen_xml,
        marks=(qwen_xml.OPEN, qwen_xml.CLOSE),
        call_begins=f"{hermes.OPEN}\n",
    ),
    HERMES,
    Format(
        name="llama-json",
        is_in=lambda source: '"parameters"' in source and "<|start_header_id|>" in source,
        grammar=lambda schemas: llama_json.llama_json(frozenset(schemas)),
        marks=(llama_json.TAG,),
        call_json=CallJson(
            '{"name": "', between='", "parameters": ', after="}", name_in_json=True
        ),
    ),
)  # fmt: skip
