"""Bodies that the schemas refuse, and the sentences of the errors."""

import json
from typing import Any

import pytest

from vram_llm.engine.request import SamplingParams
from vram_llm.errors import RequestError
from vram_llm.server.client_fields import IGNORED
from vram_llm.server.errors import MissingField, NotSupported
from vram_llm.server.schemas import ChatCompletionRequest, parse

HI = '"model": "m", "messages": [{"role": "user", "content": "hi"}]'


def parsed(fields: str) -> ChatCompletionRequest:
    return parse(ChatCompletionRequest, f"{{{HI}, {fields}}}".encode())


def refusal(fields: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parsed(fields)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"temperature": 1e9', "temperature"),
        ('"temperature": -1', "temperature"),
        ('"temperature": "1"', "temperature"),
        ('"temperature": NaN', "temperature"),
        ('"top_p": 1.5', "top_p"),
        ('"min_p": -0.1', "min_p"),
        ('"top_k": 1.5', "top_k"),
        ('"n": 0', "n"),
        ('"n": 129', "n"),
        ('"n": true', "n"),
        ('"max_tokens": -3', "max_tokens"),
        ('"max_completion_tokens": 2.5', "max_completion_tokens"),
        ('"n_predict": "all"', "n_predict"),
        ('"presence_penalty": 101', "presence_penalty"),
        ('"frequency_penalty": -101', "frequency_penalty"),
        ('"options": {"temperature": -1}', "options.temperature"),
        ('"options": {"num_ctx": "8k"}', "options.num_ctx"),
        ('"thinking": {"type": "enabled", "budget_tokens": -5}', "thinking.budget_tokens"),
        ('"reasoning": {"effort": "very"}', "reasoning.effort"),
        ('"structured_outputs": {"choice": "a"}', "structured_outputs.choice"),
        ('"repeat_penalty": 0', "repeat_penalty"),
        ('"seed": 1e30', "seed"),
        ('"stream": "yes"', "stream"),
        ('"stream_options": {"include_usage": 3}', "stream_options.include_usage"),
        ('"tools": [{"type": "web_search"}]', "tools[0].type"),
        ('"tools": [{"type": "function", "function": {"name": "a b"}}]', "tools[0].function.name"),
        (
            '"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]',
            "tools[0].function.parameters",
        ),
        ('"parallel_tool_calls": 1', "parallel_tool_calls"),
        ('"reasoning_effort": "very"', "reasoning_effort"),
        ('"metadata": 3', "metadata"),
        ('"user": 3', "user"),
        ('"model": 3', "model"),
        ('"typical_p": 1.5', "typical_p"),
        ('"xtc_probability": -1', "xtc_probability"),
        ('"xtc_threshold": "low"', "xtc_threshold"),
        ('"repeat_last_n": -2', "repeat_last_n"),
        ('"dry_multiplier": -0.1', "dry_multiplier"),
        ('"dry_base": 0.5', "dry_base"),
        ('"dry_allowed_length": 1.5', "dry_allowed_length"),
        ('"dry_penalty_last_n": -5', "dry_penalty_last_n"),
        ('"dry_sequence_breakers": ["a", ""]', "dry_sequence_breakers[1]"),
        ('"dry_sequence_breakers": ' + str(["x"] * 17).replace("'", '"'), "dry_sequence_breakers"),
        ('"mirostat": 3', "mirostat"),
        ('"mirostat_tau": -1', "mirostat_tau"),
        ('"mirostat_eta": 2', "mirostat_eta"),
        ('"skip_special_tokens": 1', "skip_special_tokens"),
        ('"logprobs": 1', "logprobs"),
        ('"logprobs": true, "top_logprobs": 21', "top_logprobs"),
        ('"guided_choice": "a"', "guided_choice"),
    ],
)
def test_value_out_of_range_or_of_another_type(fields: str, param: str) -> None:
    error = refusal(fields)
    assert error.param == param
    assert "\n" not in str(error)


def test_the_sentence_names_the_fault_and_the_amount() -> None:
    assert str(refusal('"top_p": 3')) == "'top_p' must be at most 1, got 3"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"modalities": ["text", "audio"]', "modalities"),
        ('"audio": {"voice": "x"}', "audio"),
        ('"prediction": {}', "prediction"),
    ],
)
def test_missing_features_are_refused_by_name(fields: str, param: str) -> None:
    error = refusal(fields)
    assert isinstance(error, NotSupported)
    assert error.param == param
    assert "not supported yet" in str(error)


@pytest.mark.parametrize("value", ["null", "[]"])
def test_neutral_values_pass(value: str) -> None:
    assert parse(ChatCompletionRequest, f'{{{HI}, "tools": {value}}}'.encode()).n is None


@pytest.mark.parametrize("name", sorted(IGNORED - ChatCompletionRequest.model_fields.keys()))
def test_fields_without_effect_pass(name: str) -> None:
    assert parse(ChatCompletionRequest, f'{{{HI}, "{name}": "x"}}'.encode()).messages


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[]", b"3", b"null", b"{} {}", b'{"a":' * 100_000, b"[" * 100_000]
)
def test_not_a_json_object(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse(ChatCompletionRequest, body)
    assert caught.value.param is None
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        (b"{}", MissingField, "messages"),
        (b'{"model": "m", "messages": []}', RequestError, "messages"),
        (b'{"model": "m", "messages": "hi"}', RequestError, "messages"),
        (b'{"model": "m", "messages": [3]}', RequestError, "messages[0]"),
        (
            b'{"model": "m", "messages": [{"role": "user", "content": "x"}, {}]}',
            MissingField,
            "messages[1].role",
        ),
        (b'{"model": "m", "messages": [{"role": "pope", "content": "x"}]}', RequestError, "messages[0].role"),
    ],
)
def test_bad_messages(body: bytes, kind: type[RequestError], param: str) -> None:
    with pytest.raises(kind) as caught:
        parse(ChatCompletionRequest, body)
    assert caught.value.param == param


@pytest.mark.parametrize("stop", [["a"] * 17, [1], 3, {}, [None]])
def test_bad_stop(stop: Any) -> None:
    fields = ChatCompletionRequest.model_validate(
        {"model": "m", "messages": [{"role": "user"}], "stop": stop}
    )
    with pytest.raises(RequestError) as caught:
        fields.stops()
    assert caught.value.param == "stop"


@pytest.mark.parametrize("stop", [None, "", [""], []])
def test_no_stop(stop: Any) -> None:
    assert parsed(f'"stop": {json.dumps(stop)}').stops() == ()


def test_names_for_the_same_setting_must_agree() -> None:
    body = f'{{{HI}, "repeat_penalty": 1.1, "repetition_penalty": %s}}'
    assert parse(ChatCompletionRequest, (body % 1.1).encode()).sampling(10, {}).repeat_penalty == 1.1
    with pytest.raises(RequestError, match="same setting"):
        parse(ChatCompletionRequest, (body % 1.2).encode()).sampling(10, {})


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ("", None),
        (', "max_tokens": -1', None),
        (', "max_completion_tokens": -1, "max_tokens": -1', None),
        (', "n_predict": -1', None),
        (', "options": {"num_predict": -2}', None),
        (', "max_tokens": 7', 7),
        (', "max_tokens": 7.0', 7),
        (', "max_completion_tokens": 7, "max_tokens": null', 7),
        (', "num_predict": 7', 7),
        (', "options": {"num_predict": 7}', 7),
        (', "max_tokens": 0', 0),
    ],
)
def test_the_limit_of_tokens_by_its_names(fields: str, limit: int | None) -> None:
    assert parse(ChatCompletionRequest, f"{{{HI}{fields}}}".encode()).token_limit() == limit


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"max_tokens": 7, "max_completion_tokens": 8', "max_tokens"),
        ('"max_tokens": 7, "options": {"num_predict": 8}', "options.num_predict"),
    ],
)
def test_limits_that_differ(fields: str, param: str) -> None:
    with pytest.raises(RequestError, match="same setting") as caught:
        parsed(fields).token_limit()
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ('"seed": -1', {}),
        ('"seed": 5.0', {"seed": 5}),
        ('"random_seed": 5', {"seed": 5}),
        ('"typ_p": 0.5', {"typical_p": 0.5}),
        ('"mirostat_mode": 2', {"mirostat": 2}),
        ('"temperature": 3.5', {"temperature": 3.5}),
        ('"top_k": -7', {"top_k": 0}),
        ('"options": {"temperature": 0.5, "top_k": 3, "num_thread": 8}', {"temperature": 0.5, "top_k": 3}),
        ('"options": {"top_p": 0.5}, "top_p": 0.5', {"top_p": 0.5}),
        ('"logit_bias": [[5, 1], [6, false]]', {"logit_bias": {5: 1.0, 6: float("-inf")}}),
        ('"logit_bias": {"5": -200}', {"logit_bias": {5: -200.0}}),
        ('"logit_bias": [{"token": 5, "bias": 1}]', {"logit_bias": {5: 1.0}}),
    ],
)
def test_sampling(fields: str, wanted: dict[str, Any]) -> None:
    assert parsed(fields).sampling(10, {}) == SamplingParams(**wanted)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"logit_bias": {"10": 1}', "logit_bias"),
        (f'"logit_bias": {{"5": 1{"0" * 400}}}', "logit_bias.5"),
        (f'"logit_bias": {{"{"9" * 5000}": 1}}', "logit_bias"),
        ('"logit_bias": {"5": true}', "logit_bias.5"),
        ('"logit_bias": {"5": "x"}', "logit_bias.5"),
        ('"logit_bias": 5', "logit_bias"),
        ('"logit_bias": [[5]]', "logit_bias[0]"),
        ('"logit_bias": [5]', "logit_bias[0]"),
        ('"samplers": [5]', "samplers"),
        (f'"samplers": "{"k" * 33}"', "samplers"),
        ('"samplers": ["top_q"]', "samplers[0]"),
        ('"samplers": "kz"', "samplers[1]"),
        ('"samplers": 5', "samplers"),
        ('"seed": 5, "random_seed": 6', "random_seed"),
        ('"top_p": 0.5, "options": {"top_p": 0.6}', "options.top_p"),
    ],
)
def test_sampling_refused(fields: str, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(fields).sampling(10, {})
    assert caught.value.param == param


@pytest.mark.parametrize("samplers", ["edskypmxt", "top_k;top_p;min_p;temperature", "kpmt"])
def test_all_that_are_on(samplers: str) -> None:
    defaults = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    assert parsed(f'"samplers": "{samplers}"').sampling(10, defaults) == SamplingParams(**defaults)  # type: ignore[arg-type]  # the values are mixed


@pytest.mark.parametrize(
    ("samplers", "names"),
    [
        ('["temp", "top_k"]', ("temperature", "top_k")),
        ('["top_k", "top_k"]', ("top_k", "top_k")),
        ('"tk"', ("temperature", "top_k")),
        ('["top_k", "top_p", "infill"]', ("top_k", "top_p", "infill")),
    ],
)
def test_samplers_in_another_order(samplers: str, names: tuple[str, ...]) -> None:
    assert parsed(f'"samplers": {samplers}').sampling(10, {"min_p": 0.1}).samplers == names


def test_samplers_left_out_are_off() -> None:
    defaults = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    sampling = parsed('"samplers": ["top_k", "typical_p", "temperature"]').sampling(10, defaults)
    assert sampling == SamplingParams(temperature=0.8, top_k=40)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"dynamic_temperature": true, "dynatemp_range": 0.5', None),
        (
            '"dynamic_temperature": true, "dynatemp_range": 0.5, "dynatemp_low": 0.3, "dynatemp_high": 1.3',
            None,
        ),
        ('"dynamic_temperature": false, "dynatemp_low": 1, "dynatemp_high": 1', None),
        ('"dynamic_temperature": true', "dynamic_temperature"),
        ('"options": {"dynamic_temperature": true}', "dynamic_temperature"),
        ('"dynamic_temperature": true, "dynatemp_range": 0.5, "dynatemp_low": 0.4', "dynatemp_low"),
        ('"dynamic_temperature": true, "dynatemp_range": 0.5, "dynatemp_high": 1.2', "dynatemp_high"),
    ],
)
def test_a_dynamic_temperature_with_its_ends(fields: str, param: str | None) -> None:
    """The ends must be those of `dynatemp_range` around the temperature, here the server's default."""
    request = parsed(fields)
    if param is None:
        found = request.sampling(10, {"temperature": 0.8})
        assert (found.temperature, found.dynatemp_range) == (0.8, 0.0 if "false" in fields else 0.5)
        return
    with pytest.raises(RequestError) as refused:
        request.sampling(10, {"temperature": 0.8})
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "defaults"),
    [('"dynatemp_range": 0.5, ', {"top_k": 40}), ("", {"top_k": 40, "dynatemp_range": 0.5})],
)
def test_a_dynamic_temperature_is_off_with_the_sampler(fields: str, defaults: dict[str, float]) -> None:
    sampling = parsed(fields + '"samplers": ["top_k"], "temperature": 0.5').sampling(10, defaults)
    assert sampling == SamplingParams(top_k=40)
