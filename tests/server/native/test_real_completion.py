"""llama-server's own routes over the real engine with the built-in model."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import PlanOnCpu
from tests.patience import PATIENCE_S
from tests.server.live import in_thread, listening_with
from vram_llm import demo

pytestmark = pytest.mark.process

PROMPT = "Once upon a time"
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(plan_on_cpu: PlanOnCpu) -> Iterator[httpx.Client]:
    plan = plan_on_cpu(demo.path(), n_ctx=2048, parallel=2)
    with (
        in_thread(listening_with(plan, "demo")) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        yield client


def post(client: httpx.Client, path: str = "/completion", **fields: Any) -> Any:
    """The reply to a request that is accepted, for the likeliest tokens."""
    response = client.post(path, json={"prompt": PROMPT, "temperature": 0, "n_predict": 8, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def tokens_of(client: httpx.Client, text: str, **fields: Any) -> list[int]:
    found: list[int] = client.post("/tokenize", json={"content": text, **fields}).json()["tokens"]
    return found


def test_one_object(client: httpx.Client) -> None:
    reply = post(client, return_tokens=True)
    n_prompt = len(tokens_of(client, PROMPT, add_special=True))
    assert (reply["tokens_evaluated"], reply["tokens_predicted"]) == (n_prompt, 8)
    assert reply["timings"]["prompt_n"] + reply["timings"]["cache_n"] == n_prompt
    assert reply["prompt"].endswith(PROMPT)
    text = client.post("/detokenize", json={"tokens": reply["tokens"]}).json()["content"]
    assert text == reply["content"]


def test_a_stream_has_the_same_text(client: httpx.Client) -> None:
    whole = post(client)
    with client.stream(
        "POST", "/completions", json={"prompt": PROMPT, "temperature": 0, "n_predict": 8, "stream": True}
    ) as response:
        chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert [chunk["stop"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert sum(len(chunk["tokens"]) for chunk in chunks) == 8


def test_a_prompt_in_any_shape_is_the_same(client: httpx.Client) -> None:
    tokens = tokens_of(client, PROMPT, add_special=True)
    head, tail = tokens[:-1], client.post("/detokenize", json={"tokens": tokens[-1:]}).json()["content"]
    prompts: list[Any] = [PROMPT, tokens, [*head, tail], {"prompt_string": PROMPT}]
    replies = post(client, prompt=prompts)
    assert len({reply["content"] for reply in replies}) == 1


def test_no_tokens_fill_the_cache(client: httpx.Client) -> None:
    text = "a prompt that is to be computed before it is needed " * 9
    assert post(client, prompt=text, n_predict=0)["content"] == ""
    reply = post(client, prompt=text)
    assert reply["timings"]["cache_n"] > reply["tokens_evaluated"] // 2
    assert post(client, prompt=text, cache_prompt=False)["timings"]["cache_n"] == 0


@pytest.mark.parametrize("post_sampling", [False, True])
def test_probabilities(client: httpx.Client, post_sampling: bool) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 3, "return_tokens": True, "ignore_eos": True}
    plain = post(client, **options)
    reply = post(client, n_probs=5, post_sampling_probs=post_sampling, **options)
    assert reply["tokens"] == plain["tokens"] == [each["id"] for each in reply["completion_probabilities"]]
    for each in reply["completion_probabilities"]:
        if post_sampling:
            assert 0 < each["prob"] <= 1
            assert sum(candidate["prob"] for candidate in each["top_probs"]) <= 1.0001
        else:
            assert len(each["top_logprobs"]) == 5
            assert each["logprob"] <= 0


def test_ends_that_are_ignored(client: httpx.Client) -> None:
    reply = post(client, ignore_eos=True, n_predict=64)
    assert (reply["tokens_predicted"], reply["stop_type"]) == (64, "limit")
    biases = reply["generation_settings"]["logit_bias"]
    assert biases
    assert all(each["bias"] is None for each in biases)


@pytest.mark.parametrize(
    "fields",
    [
        {"samplers": ["top_k", "top_p", "infill"], "top_k": 40, "top_p": 0.9},
        {"samplers": ["temperature", "min_p"], "temperature": 1.5},
        {"samplers": []},
        {"grammar": 'root ::= "yes" | "no"'},
        {"json_schema": SCHEMA},
        {"t_max_predict_ms": 10_000, "n_indent": 2},
        {"n_cmpl": 2},
    ],
    ids=str,
)
def test_fields(client: httpx.Client, fields: dict[str, Any]) -> None:
    reply = post(client, seed=1, **{"n_predict": 40, **fields})
    replies = reply if isinstance(reply, list) else [reply]
    assert len(replies) == fields.get("n_cmpl", 1)
    if "grammar" in fields:
        assert reply["content"] in ("yes", "no")
    if "json_schema" in fields:
        assert isinstance(json.loads(reply["content"])["a"], bool)


def test_a_stop_string(client: httpx.Client) -> None:
    whole = post(client, n_predict=40)["content"]
    word = whole.split()[2]
    reply = post(client, n_predict=40, stop=[word])
    assert (reply["stop_type"], reply["stopping_word"]) == ("word", word)
    assert whole.startswith(reply["content"])
