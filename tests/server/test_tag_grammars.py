"""Arguments in tags: every answer that their grammar accepts is read as arguments of the schema."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import jsonschema
import pytest

from tests.server.grammars import THINKS, Bytes, follower, prompt_of, tagged_call
from vram_llm.chat.call_grammar import ToolSchema
from vram_llm.chat.events import CallArguments, CallEnd
from vram_llm.chat.formats.call_format import CallFormat
from vram_llm.chat.formats.table import FORMATS
from vram_llm.chat.prompt import ChatPrompt
from vram_llm.chat.tag_grammar import GLM, can_constrain, layout_of
from vram_llm.engine.request import Grammar
from vram_llm.engine.sampling.structured_output import Constraint, _matcher, _tokenizer
from vram_llm.llama.vocab import Vocab
from vram_llm.server.tool_grammars import strict_grammar
from vram_llm.server.tools import ToolUse

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "Any text"},
        "mode": {"type": "string", "enum": ["read", "read all"]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "size": {"type": ["integer", "string"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 3},
        "force": {"type": "boolean"},
        "ids": {"type": "array", "items": {"$ref": "#/$defs/Id"}, "minItems": 1, "maxItems": 2},
        "level": {"enum": [1, 2, None]},
    },
    "required": ["path", "mode", "note", "size", "count", "ids"],
    "additionalProperties": False,
    "$defs": {
        "Id": {
            "type": "object",
            "properties": {"n": {"enum": [7, "x"]}},
            "required": ["n"],
            "additionalProperties": False,
        }
    },
}
USE = ToolUse(
    tools=({"type": "function"},), schemas={"open": SCHEMA}, strict=frozenset(["open"]), parallel=False
)
IN_TAGS = [each for each in FORMATS if each.layout is not None or each.name == "glm"]
_MANY = 90  # tokens allowed: any text may stand here
_TEXTS = ("a b", "5", "null", '"x"', "<b>", "é\n", "{}", "True")


def _walked(form: CallFormat, prompt: ChatPrompt, grammar: Grammar, marks: tuple[str, ...], seed: int) -> Any:
    """Arguments of a call that `grammar` accepts: random tokens, and texts where any text is allowed."""
    layout = GLM if form.layout is None else layout_of(form.layout)
    vocab, pick = cast(Vocab, Bytes(marks)), random.Random(seed)
    parser = prompt.parser({"open": SCHEMA})
    assert parser is not None
    arguments, text = "", b""
    with ThreadPoolExecutor(1) as background:
        followed = Constraint(_matcher(_tokenizer(vocab), grammar, vocab), vocab.n_tokens, background)
        queue = vocab.tokenize_inside(layout.call, parse_special=True)
        for _ in range(3000):
            allowed = followed.allowed().tolist()
            if not queue and len(allowed) > _MANY:
                queue = vocab.tokenize_inside(pick.choice(_TEXTS) + layout.value_end, parse_special=True)
            token = queue.pop(0) if queue else pick.choice(allowed)
            assert token in allowed
            followed.accept(token)
            text += vocab.spelling(token)
            try:
                piece, text = text.decode(), b""
            except UnicodeDecodeError:
                continue
            events = parser.feed(piece)
            arguments += "".join(event.text for event in events if isinstance(event, CallArguments))
            if any(isinstance(event, CallEnd) for event in events):
                return json.loads(arguments)
    raise AssertionError(f"no end: {arguments}")


@pytest.mark.process  # computes for many seconds
@pytest.mark.parametrize("as_tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("form", IN_TAGS, ids=lambda f: f.name)
def test_answers_of_the_grammar_are_read_as_arguments_of_the_schema(
    form: CallFormat, as_tokens: bool
) -> None:
    prompt, grammar = strict_grammar(prompt_of(form), USE)
    assert prompt.dialect.call_json is None  # no JSON in place of the tags
    marks = (*form.marks, *THINKS) if as_tokens else ()
    for seed in range(20):
        jsonschema.validate(_walked(form, prompt, grammar, marks, seed), SCHEMA)


def test_a_call_without_the_outer_tag_is_constrained_too() -> None:
    form = next(each for each in FORMATS if each.name == "qwen-xml")
    prompt, grammar = strict_grammar(prompt_of(form), USE)
    accepts = follower(grammar)
    call = tagged_call(
        prompt,
        "open",
        {"path": "a", "mode": "read", "note": None, "size": 1, "count": 2, "ids": [{"n": 7}]},
    )
    bare = call.removeprefix("<tool_call>").removesuffix("</tool_call>")
    assert accepts(f"Wait. {call}{bare}")
    assert not accepts(bare.replace("read", "write"))


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "string", "pattern": "^x"}}},
        {"properties": {"a": {"type": "string", "minLength": 3}}},
        {"properties": {"a": {"type": ["string", "array"]}}},
        {"properties": {"a": {"enum": ["x", 1]}}},
        {"properties": {"a": {"enum": [" x"]}}},
        {"properties": {"a": {"type": "object", "properties": {"b": {"$ref": "#/properties/a"}}}}},
        {"properties": {"a b": {"type": "string"}}},
        {"properties": {}, "minProperties": 1},
        {"anyOf": [{"properties": {}}]},
    ],
    ids=json.dumps,
)
def test_a_schema_with_more_rules_for_a_text_is_json(schema: Any) -> None:
    """JSON between the format's own tags: a grammar can constrain it to any schema."""
    assert not can_constrain(ToolSchema(schema, lenient=False))
    use = ToolUse(tools=({},), schemas={"f": schema}, strict=frozenset(["f"]))
    for form in [each for each in IN_TAGS if each.tags is not None]:
        prompt, _ = strict_grammar(prompt_of(form), use)
        assert prompt.dialect.call_json is not None
