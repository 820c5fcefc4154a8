"""The formats of tool calls.

A chat template has the first of FORMATS that reads the call that the template wrote, and whose own marks are
in that call. If a template writes no call, the words of its source decide.
"""

import re
from dataclasses import replace

from vram_llm.chat.formats import (
    apertus,
    deepseek,
    functionary,
    gemma,
    glm,
    harmony,
    hermes,
    kimi,
    lfm2,
    llama_json,
    minimax_m3,
    mistral,
    muse,
)
from vram_llm.chat.formats.call_format import CallFormat, object_format, tag_format
from vram_llm.chat.formats.call_json import ID, CallJson, json_members
from vram_llm.chat.formats.json_calls import named
from vram_llm.chat.formats.tagged import QWEN, CallTags

HERMES = object_format(
    "hermes",
    hermes.OPEN,
    hermes.CLOSE,
    newline="\n",
    is_in=lambda source: hermes.OPEN in source and re.search(r'\\?"arguments\\?"', source) is not None,
)
NONE = replace(HERMES, name="none")  # the server's own system message shows tools, asks for Hermes's calls

_HARMONY = CallFormat(
    name="harmony",
    is_in=lambda source: harmony.CHANNEL in source and harmony.MESSAGE in source,
    parse_function=lambda _: harmony.harmony,
    marks=(
        harmony.START, harmony.CHANNEL, harmony.MESSAGE, harmony.CONSTRAIN, harmony.END, harmony.CALL,
        harmony.RETURN,
    ),
    call_begins=f"{harmony.CHANNEL}commentary{harmony.MESSAGE}",
    call_json=CallJson(
        trigger=f"{harmony.CHANNEL}commentary to=functions.",
        between=f" {harmony.CONSTRAIN}json{harmony.MESSAGE}",
        closing=harmony.CALL,
    ),
    framed=True,
    thinks=(
        f"{harmony.CHANNEL}analysis{harmony.MESSAGE}", f"{harmony.END}{harmony.START}assistant",
    ),
    answer_begins=f"{harmony.CHANNEL}final{harmony.MESSAGE}",
)  # fmt: skip
_MUSE = CallFormat(
    name="muse",
    parse_function=muse.muse,
    marks=(muse.START, muse.MESSAGE, muse.END, muse.TURN_END),
    call_begins=f" to=user{muse.MESSAGE}",
    framed=True,
    thinks=(f" to=self{muse.MESSAGE}", f"{muse.END}{muse.START}assistant"),
    answer_begins=f" to=user{muse.MESSAGE}",
)
_FUNCTIONARY = CallFormat(  # 3.2
    name="functionary",
    parse_function=functionary.functionary,
    marks=(),
    framed=True,
    answer_begins=f"{functionary.ALL}\n",
)
_MISTRAL_MARKS = (mistral.CALLS, mistral.ARGS, mistral.CALL_ID)
_MISTRAL_LIST = CallFormat(  # tokenizer v3: a list of objects
    name="mistral",
    is_in=lambda source: mistral.CALLS in source and mistral.ARGS not in source,
    parse_function=lambda _: mistral.mistral,
    marks=_MISTRAL_MARKS,
    call_begins=f"{mistral.CALLS}[",
    call_json=json_members(mistral.CALLS, opening="[", separator=", ", closing="]"),
    new_id=mistral.new_id,
    fitting_id=lambda given, _name, _index: mistral.fitting_id(given),
)
_MISTRAL_NAMED = replace(  # tokenizer v11 and later: the name, then its arguments
    _MISTRAL_LIST,
    is_in=lambda source: mistral.CALLS in source,
    call_json=CallJson(mistral.CALLS, between=mistral.ARGS),
)
_DEEPSEEK_FENCED = CallFormat(  # R1 and V3
    name="deepseek",
    is_in=lambda source: deepseek.CALLS in source and f"function{deepseek.SEP}" in source,
    parse_function=lambda _: deepseek.deepseek,
    marks=(deepseek.CALLS, deepseek.CALLS_END, deepseek.CALL, deepseek.CALL_END, deepseek.SEP),
    call_begins=f"{deepseek.CALLS}{deepseek.CALL}",
    call_json=CallJson(
        trigger=deepseek.CALL,
        before=f"function{deepseek.SEP}",
        between="\n```json\n",
        after="\n```",
        closing=deepseek.CALL_END,
    ),
)
_DEEPSEEK = replace(  # V3.1
    _DEEPSEEK_FENCED,
    is_in=lambda source: deepseek.CALLS in source,
    call_json=CallJson(deepseek.CALL, between=deepseek.SEP, closing=deepseek.CALL_END),
)

_DSML = CallTags(
    outer=("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
    call='<｜DSML｜invoke name="',
    call_end="</｜DSML｜invoke>",
    parameter='<｜DSML｜parameter name="',
    value_ends=("</｜DSML｜parameter>",),
)
_MINIMAX_M2 = CallTags(
    outer=("<minimax:tool_call>", "</minimax:tool_call>"),
    call='<invoke name="',
    call_end="</invoke>",
    parameter='<parameter name="',
    value_ends=("</parameter>",),
)
_MINICPM = CallTags(
    outer=None,
    call='<function name="',
    call_end="</function>",
    parameter='<param name="',
    value_ends=("</param>",),
)
_SEED = CallTags(
    outer=("<seed:tool_call>", "</seed:tool_call>"),
    call="<function=",
    call_end="</function>",
    parameter="<parameter=",
    value_ends=("</parameter>",),
)
_KIMI_K3 = CallTags(
    outer=("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
    call='<|open|>call tool="',
    call_end="<|close|>call<|sep|>",
    parameter='<|open|>argument key="',
    value_ends=("<|close|>argument<|sep|>",),
    head_end="<|sep|>",
    skipped=(
        "<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>", "<|end_of_msg|>",
    ),
    json=('<|open|>json type="object"<|sep|>', "<|close|>json<|sep|>"),
)  # fmt: skip
_KIMI_K2 = CallFormat(
    name="kimi",
    parse_function=lambda _: kimi.kimi,
    marks=kimi.MARKS,
    call_begins=f"{kimi.CALLS}{kimi.CALL}",
    call_json=CallJson(
        trigger=kimi.CALL,
        before="functions.",
        between=f":{ID}{kimi.ARGUMENTS}",
        closing=kimi.CALL_END,
    ),
    fitting_id=lambda _given, name, index: f"functions.{name}:{index}",
)
_SOLAR_SKIPPED = ("<|begin|>assistant", "<|content|>", "<|tool_calls|>", "<|calls|>", "<|end|>")
_SOLAR_CALL, _SOLAR_NAME = "<|tool_call:begin|>", "<|tool_call:name|>"
_SOLAR_ARGS, _SOLAR_END = "<|tool_call:args|>", "<|tool_call:end|>"
_SOLAR_PARSE = named(
    _SOLAR_CALL,
    name_end=_SOLAR_ARGS,
    closing=_SOLAR_END,
    skipped=_SOLAR_SKIPPED,
    name_of=lambda header: header.partition(_SOLAR_NAME)[2],
)
_SOLAR = CallFormat(
    name="solar",
    parse_function=lambda _: _SOLAR_PARSE,
    marks=(_SOLAR_CALL, _SOLAR_NAME, _SOLAR_ARGS, _SOLAR_END, "<|begin|>", *_SOLAR_SKIPPED[1:]),
    call_json=CallJson(
        trigger=_SOLAR_CALL, before=f"{ID}{_SOLAR_NAME}", between=_SOLAR_ARGS, closing=_SOLAR_END
    ),
    framed=True,
    answer_begins="<|content|>",
)
_FUNCTION_TAG = named("<function=", name_end=">", closing="</function>")
_FUNCTIONARY_31 = CallFormat(
    name="functionary-tags",
    parse_function=lambda _: _FUNCTION_TAG,
    marks=(),
    call_json=CallJson("<function=", between=">", closing="</function>"),
)
_APERTUS = CallFormat(
    name="apertus",
    parse_function=lambda _: apertus.apertus,
    marks=(apertus.OPEN, apertus.CLOSE),
    call_begins=f"{apertus.OPEN}[",
    call_json=CallJson(
        apertus.OPEN,
        opening="[",
        before='{"',
        between='": ',
        after="}",
        separator=", ",
        closing=f"]{apertus.CLOSE}",
        name_in_json=True,
    ),
)
_COHERE_SKIPPED = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")
_LLAMA = CallFormat(
    name="llama-json",
    is_in=lambda source: '"parameters"' in source and "<|start_header_id|>" in source,
    parse_function=lambda schemas: llama_json.llama_json(frozenset(schemas)),
    marks=(llama_json.TAG,),
    call_json=CallJson('{"name": "', between='", "parameters": ', after="}", name_in_json=True),
)


def _hy3(suffix: str) -> CallFormat:
    return CallFormat(
        name="hy3",
        parse_function=lambda schemas: glm.glm(schemas, suffix, hy3=True),
        marks=glm.glm_marks(suffix, hy3=True),
        signs=(f"<tool_sep{suffix}>",),
        call_begins=f"<tool_calls{suffix}>\n<tool_call{suffix}>",
        tags=(f"<tool_call{suffix}>", f"</tool_call{suffix}>"),
    )


FORMATS = (
    _HARMONY,
    _MUSE,
    _MISTRAL_LIST,
    _MISTRAL_NAMED,
    _DEEPSEEK_FENCED,
    _DEEPSEEK,
    _KIMI_K2,
    replace(
        tag_format(
            "kimi-k3",
            _KIMI_K3,
            marks=("<|open|>", "<|close|>", "<|sep|>"),
            answer_begins="<|open|>response<|sep|>",
        ),
        call_begins="<|close|>response<|sep|><|open|>tools<|sep|>",
    ),
    _SOLAR,
    _APERTUS,
    object_format(
        "cohere",
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        newline="\n",
        is_list=True,
        keys=("tool_name", "parameters"),
        first=f'"tool_call_id": "{ID}", ',
        skipped=_COHERE_SKIPPED,
    ),
    object_format(
        "command-r",
        "Action:\n```json",
        "```",
        newline="\n",
        is_list=True,
        keys=("tool_name", "parameters"),
        marks=(),
    ),
    object_format(
        "nemotron",
        "<TOOLCALL>",
        "</TOOLCALL>",
        is_list=True,
        is_in=lambda source: "<TOOLCALL>" in source,
    ),
    object_format("apriel", "<tool_calls>", "</tool_calls>", is_list=True),
    object_format("minimax-m1", "<tool_calls>", "</tool_calls>", newline="\n"),
    object_format(
        "granite",
        "<|tool_call|>",
        "<|/tool_call|>",
        is_list=True,
        is_in=lambda source: "<|tool_call|>" in source,
    ),
    object_format("firefunction", "functools", is_list=True),
    object_format("gigachat", "<|function_call|>"),
    object_format(
        "gigachat-3",
        "function call<|role_sep|>",
        newline="\n",
        skipped=("<|message_sep|>",),
        marks=("<|role_sep|>", "<|message_sep|>"),
    ),
    CallFormat(
        name="lfm2",
        is_in=lambda source: "List of tools: [" in source or "<|tool_list_start|>" in source,
        parse_function=lambda _: lfm2.lfm2,
        marks=(lfm2.OPEN, lfm2.CLOSE),
        call_begins=f"{lfm2.OPEN}[",
        tags=(lfm2.OPEN, lfm2.CLOSE),
        write=lfm2.write_calls,
    ),
    CallFormat(
        name="gemma",
        parse_function=lambda _: gemma.gemma,
        marks=(gemma.OPEN, gemma.CLOSE, gemma.QUOTE),
        call_begins=gemma.OPEN,
        tags=(gemma.OPEN, gemma.CLOSE),
    ),
    CallFormat(
        name="minimax-m3",
        parse_function=minimax_m3.minimax_m3,
        marks=(minimax_m3.NS,),
    ),
    CallFormat(
        name="glm",
        is_in=lambda source: "<arg_key>" in source and glm.OPEN in source,
        parse_function=glm.glm,
        marks=glm.glm_marks(),
        call_begins=f"{glm.OPEN}\n",
        tags=(glm.OPEN, glm.CLOSE),
    ),
    *map(_hy3, glm.HY3_SUFFIXES),
    tag_format("deepseek-dsml", _DSML, marks=("｜DSML｜",)),
    tag_format(  # V4
        "deepseek-dsml",
        replace(_DSML, outer=("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>")),
        marks=("｜DSML｜",),
    ),
    tag_format("minimax", _MINIMAX_M2),
    tag_format("minicpm", _MINICPM),
    tag_format("seed", _SEED),
    replace(
        tag_format("qwen-xml", QWEN),
        is_in=lambda source: hermes.OPEN in source and QWEN.call in source,
        call_begins=f"{hermes.OPEN}\n",
    ),
    _FUNCTIONARY_31,
    HERMES,
    _FUNCTIONARY,
    _LLAMA,
)
