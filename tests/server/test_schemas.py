"""What is refused at the door, and what is said about it."""

from typing import Any

import pytest

from vram_llm.errors import RequestError
from vram_llm.server.errors import MissingField, NotSupported, UnknownParameter
from vram_llm.server.schemas import IGNORED, ChatCompletionRequest, parse

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
        ('"temperature": 2.1', "temperature"),
        ('"temperature": -1', "temperature"),
        ('"temperature": "1"', "temperature"),
        ('"temperature": NaN', "temperature"),
        ('"top_p": 1.5', "top_p"),
        ('"min_p": -0.1', "min_p"),
        ('"top_k": 1.5', "top_k"),
        ('"n": 0', "n"),
        ('"n": 129', "n"),
        ('"n": true', "n"),
        ('"max_tokens": 0', "max_tokens"),
        ('"max_completion_tokens": -1', "max_completion_tokens"),
        ('"presence_penalty": 3', "presence_penalty"),
        ('"frequency_penalty": -3', "frequency_penalty"),
        ('"repeat_penalty": 0', "repeat_penalty"),
        ('"seed": 1e30', "seed"),
        ('"stream": "yes"', "stream"),
        ('"logit_bias": {"5": 101}', "logit_bias.5"),
        ('"logit_bias": {"five": 1}', "logit_bias.five"),
        ('"stream_options": {"include_usage": 3}', "stream_options.include_usage"),
        ('"tools": [{"type": "web_search"}]', "tools[0].type"),
        ('"tools": [{"type": "function", "function": {"name": "a b"}}]', "tools[0].function.name"),
        (
            '"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]',
            "tools[0].function.parameters",
        ),
        ('"parallel_tool_calls": 1', "parallel_tool_calls"),
        ('"reasoning_effort": "very"', "reasoning_effort"),
        ('"metadata": {"a": 1}', "metadata.a"),
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


def test_the_sentence_says_what_and_by_how_much() -> None:
    message = "Invalid value for 'temperature': it should be less than or equal to 2, got 3"
    assert str(refusal('"temperature": 3')) == message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"functions": [{}]', "functions"),
        ('"modalities": ["text", "audio"]', "modalities"),
        ('"audio": {"voice": "x"}', "audio"),
        ('"prediction": {}', "prediction"),
    ],
)
def test_what_is_not_there_yet_is_said_to_be(fields: str, param: str) -> None:
    error = refusal(fields)
    assert isinstance(error, NotSupported)
    assert error.param == param
    assert "not supported yet" in str(error)


@pytest.mark.parametrize("value", ["null", "[]"])
def test_what_asks_for_nothing_passes(value: str) -> None:
    assert parse(ChatCompletionRequest, f'{{{HI}, "tools": {value}}}'.encode()).n is None


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_changes_nothing_passes(name: str) -> None:
    assert parse(ChatCompletionRequest, f'{{{HI}, "{name}": "x"}}'.encode()).messages


def test_unknown_field() -> None:
    error = refusal('"temprature": 1')
    assert isinstance(error, UnknownParameter)
    assert str(error) == "Unrecognized request argument supplied: temprature"


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


@pytest.mark.parametrize("stop", ["", [""], ["a"] * 17, [1], 3, {}])
def test_bad_stop(stop: Any) -> None:
    fields = ChatCompletionRequest.model_validate(
        {"model": "m", "messages": [{"role": "user"}], "stop": stop}
    )
    with pytest.raises(RequestError) as caught:
        fields.stops()
    assert caught.value.param == "stop"


def test_names_for_the_same_setting_must_agree() -> None:
    body = f'{{{HI}, "repeat_penalty": 1.1, "repetition_penalty": %s}}'
    assert parse(ChatCompletionRequest, (body % 1.1).encode()).sampling(10, {}).repeat_penalty == 1.1
    with pytest.raises(RequestError, match="same setting"):
        parse(ChatCompletionRequest, (body % 1.2).encode()).sampling(10, {})


def test_logit_bias_outside_the_vocabulary() -> None:
    with pytest.raises(RequestError, match="the last is 9"):
        parse(ChatCompletionRequest, f'{{{HI}, "logit_bias": {{"10": 1}}}}'.encode()).sampling(10, {})
