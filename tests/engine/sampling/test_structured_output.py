"""Answers match their grammar, with real tokenizers: byte-level, and SentencePiece's with byte tokens."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, full_step, loaded, run, text_of
from tests.engine.schemas import nested_schema
from vram_llm import demo
from vram_llm.engine.generation import Generation
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, Grammar, GrammarKind, Request, SamplingParams, TokenEvent
from vram_llm.llama.model import LoadedModel

HOT = SamplingParams(temperature=1.5, seed=1)


@pytest.fixture(scope="module")
def demo_model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    with loaded(plan_on_cpu(demo.path(), n_ctx=4096, parallel=16, **EXACT)) as model:
        yield model


@pytest.fixture(scope="module")
def spm_model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    with loaded(plan_on_cpu(n_ctx=2048, **EXACT)) as model:
        yield model


@pytest.fixture(params=["demo_model", "spm_model"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    found: LoadedModel = request.getfixturevalue(request.param)
    return found


def _grammar(kind: GrammarKind, text: Any, **options: Any) -> Grammar:
    written = text if isinstance(text, str) else json.dumps(text)
    return Grammar(kind=kind, text=written, field="grammar", **options)


def _request(name: str, grammar: Grammar | None, **options: Any) -> Request:
    return Request(
        id=name, **{"prompt": "Hello", "max_tokens": 1500, "sampling": HOT, "grammar": grammar, **options}
    )


def _run(loop: Loop, *requests: Request) -> dict[str, tuple[str, TokenEvent]]:
    """The text of each request, and its last event."""
    return {name: (text_of(events), events[-1]) for name, events in run(loop, *requests).items()}


def _one(model: LoadedModel, grammar: Grammar, **options: Any) -> tuple[str, TokenEvent]:
    return _run(Loop(model), _request("one", grammar, **options))["one"]


@pytest.mark.process  # computes for seconds
def test_a_hundred_nested_schemas_at_a_high_temperature(demo_model: LoadedModel) -> None:
    """A stream without a grammar runs with them and gets the same answer as alone."""
    schemas = {f"r{seed}": nested_schema(seed) for seed in range(100)}
    assert len({json.dumps(schema) for schema in schemas.values()}) > 95
    free = _request("free", None, sampling=SamplingParams(temperature=0), max_tokens=30)
    alone = _run(Loop(demo_model), free)["free"][0]
    answers = _run(
        Loop(demo_model),
        free,
        *(_request(name, _grammar(GrammarKind.JSON_SCHEMA, schema)) for name, schema in schemas.items()),
    )
    assert answers["free"][0][:40] == alone[:40]
    for name, schema in schemas.items():
        text, end = answers[name]
        assert end.finish_reason is FinishReason.STOP
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("kind", "text", "pattern"),
    [
        (GrammarKind.REGEX, "[a-c]{3,5}x", "[a-c]{3,5}x"),
        (GrammarKind.REGEX, "(é|世|🙂){2}", "(é|世|🙂){2}"),
        (GrammarKind.CHOICE, ["yes", "no, never", 'a "quoted" one'], 'yes|no, never|a "quoted" one'),
        (GrammarKind.GBNF, 'root ::= "a" [0-9]{2,4} ("x" | "yy")', "a[0-9]{2,4}(x|yy)"),
        (GrammarKind.GBNF, 'start: "n" NUMBER\nNUMBER: /[1-9][0-9]?/', "n[1-9][0-9]?"),
        (GrammarKind.JSON_SCHEMA, {"enum": ["one", 2]}, '"one"|2'),
    ],
    ids=str,
)
def test_every_kind_of_grammar(model: LoadedModel, kind: GrammarKind, text: Any, pattern: str) -> None:
    answers = [
        _one(model, _grammar(kind, text), sampling=SamplingParams(temperature=t, seed=s, top_k=k))
        for t, s, k in [(0, 1, 0), (1.5, 2, 0), (1.5, 3, 40), (2.0, 4, 0)]
    ]
    for said, end in answers:
        assert re.fullmatch(pattern, said), said
        assert end.finish_reason is FinishReason.STOP


def test_any_object(model: LoadedModel) -> None:
    """As `json_object` asks for. With greedy sampling, a random model might never end it."""
    bias = {token: 4.0 for token in range(model.vocab.n_tokens) if model.vocab.piece(token) in (b"}", b'"')}
    sampling = SamplingParams(temperature=1.0, seed=3, logit_bias=bias)
    said, end = _one(model, _grammar(GrammarKind.JSON_SCHEMA, {"type": "object"}), sampling=sampling)
    assert end.finish_reason is FinishReason.STOP
    assert isinstance(json.loads(said), dict)


def test_an_end_token_is_written_only_where_the_grammar_ends(model: LoadedModel) -> None:
    """A bias makes it the most likely token at every position."""
    sampling = SamplingParams(temperature=0, logit_bias=dict.fromkeys(model.vocab.ends, 100.0))
    said, end = _one(model, _grammar(GrammarKind.REGEX, "[ab]{2,9}"), sampling=sampling)
    assert re.fullmatch("[ab]{2,9}", said)
    assert end.finish_reason is FinishReason.STOP
    assert end.token_ids[-1] in model.vocab.ends


def test_no_more_tokens_than_asked_for(model: LoadedModel) -> None:
    said, end = _one(model, _grammar(GrammarKind.REGEX, "[ab]{50}"), max_tokens=4)
    assert re.fullmatch("[ab]{1,50}", said)
    assert (end.finish_reason, end.completion_tokens) == (FinishReason.LENGTH, 4)


def test_ignore_eos_does_not_continue_past_the_grammars_end(model: LoadedModel) -> None:
    said, end = _one(model, _grammar(GrammarKind.REGEX, "[ab]{3}c?"), ignore_eos=True)
    assert re.fullmatch("[ab]{3}c?", said)
    assert end.finish_reason is FinishReason.STOP


BAD = {
    "no JSON": _grammar(GrammarKind.JSON_SCHEMA, '{"type":'),
    "no such type": _grammar(GrammarKind.JSON_SCHEMA, {"type": "objec"}),
    "cannot be enforced": _grammar(GrammarKind.JSON_SCHEMA, {"type": "string", "if": {}}),
    "unsatisfiable": _grammar(GrammarKind.JSON_SCHEMA, {"allOf": [{"type": "string"}, {"type": "number"}]}),
    "open class": _grammar(GrammarKind.REGEX, "[a-c"),
    "no such rule": _grammar(GrammarKind.GBNF, "root ::= nonsense"),
    "cut short": _grammar(GrammarKind.GBNF, 'root ::= "a" ['),
}


@pytest.mark.parametrize("bad", list(BAD))
def test_a_bad_grammar_ends_its_own_request_and_no_other(demo_model: LoadedModel, bad: str) -> None:
    good = _request("good", None, sampling=SamplingParams(temperature=0), max_tokens=12)
    structured = _request("structured", _grammar(GrammarKind.REGEX, "[a-c]{8}"))
    loop = Loop(demo_model)
    alone = _run(loop, good)["good"]
    answers = _run(loop, good, _request("bad", BAD[bad]), structured)
    text, end = answers["bad"]
    assert (text, end.finish_reason, end.error_code, end.error_param) == (
        "", FinishReason.ERROR, "invalid_value", "grammar",
    )  # fmt: skip
    assert end.error is not None
    assert end.error.startswith("The grammar in 'grammar' cannot be used: ")
    assert "\n" not in end.error
    assert answers["good"][0] == alone[0]
    assert re.fullmatch("[a-c]{8}", answers["structured"][0])


def test_lenient_schemas_leave_out_what_cannot_be_enforced(demo_model: LoadedModel) -> None:
    schema = {"type": "string", "maxLength": 5, "if": {}}
    said, end = _one(demo_model, _grammar(GrammarKind.JSON_SCHEMA, schema, lenient=True))
    assert end.finish_reason is FinishReason.STOP
    assert len(json.loads(said)) <= 5


def test_a_request_can_be_cancelled_while_its_grammar_is_compiled(demo_model: LoadedModel) -> None:
    loop = Loop(demo_model)
    assert loop.submit(_request("gone", _grammar(GrammarKind.REGEX, "[a-c]{8}"))) is None
    assert not loop.is_idle
    loop.cancel("gone")
    assert loop.is_idle
    assert full_step(loop) == []


def test_drafts_keep_to_the_grammar(demo_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer with and without them, in fewer steps: the grammar asks for repetition."""
    grammar = _grammar(GrammarKind.REGEX, "(abcdefgh,){30}")
    options = {"sampling": SamplingParams(temperature=0), "max_tokens": 400}
    loop = Loop(demo_model)
    drafted = _run(loop, _request("one", grammar, **options))["one"][0]
    figures = loop.stats()
    monkeypatch.setattr(Generation, "draft", lambda *_: [])
    plain = Loop(demo_model)
    assert _run(plain, _request("one", grammar, **options))["one"][0] == drafted == "abcdefgh," * 30
    assert figures.n_accepted_tokens > 20
    assert figures.n_steps < plain.stats().n_steps - 20


def test_logprobs_are_the_models_own(demo_model: LoadedModel) -> None:
    """They are computed before the grammar: an allowed token need not be likely."""
    loop = Loop(demo_model)
    request = _request("r", _grammar(GrammarKind.REGEX, "[a-c]{8}"), logprobs=1)
    assert loop.submit(request) is None
    told = []
    while not loop.is_idle:
        told += [each for event in full_step(loop) for each in event.logprobs]
    assert any(each.top[0].token != each.chosen.token for each in told)
    assert all(each.chosen.logprob <= each.top[0].logprob for each in told)  # type: ignore[operator]
