"""Bodies that client programs of llama-server send to its own routes, over the real engine.

Their shapes: llama.vim, autoload/llama.vim (ae3cb00, llama#fim and s:ring_update); llama.vscode,
src/llama-server.ts (009e5b7); SillyTavern 1.19.0, as its page sends them with the API "llama.cpp", a new
installation's settings and its preset "Default" (`make clients NAMES=sillytavern` runs it).
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.inputs.test_infill import FIM, write
from tests.patience import PATIENCE_S
from tests.server.live import in_thread, listening_with

pytestmark = pytest.mark.process

CHUNKS = [
    {"text": "def g(x):\n    return f(x)\n", "time": [152, 883_211], "filename": "g.py"},
    {"text": "f(1)\nf(2)\nf(3)\n", "time": [153, -11], "filename": ""},
]
GAP = {"input_prefix": "def f(x):\n", "input_suffix": "\n    return y\n", "prompt": "    y = "}
WISHED = ("prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second",
          "predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second")  # fmt: skip
VIM: dict[str, Any] = {
    **GAP, "input_extra": CHUNKS, "n_predict": 8, "stop": [], "n_indent": 4, "top_k": 40, "top_p": 0.90,
    "stream": False, "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "t_max_prompt_ms": 500,
    "t_max_predict_ms": 250,
    "response_fields": ["content", *(f"timings/{name}" for name in WISHED), "truncated", "tokens_cached"],
}  # fmt: skip
VIM_WARM_UP: dict[str, Any] = {
    "input_prefix": "", "input_suffix": "", "input_extra": CHUNKS, "prompt": "", "n_predict": 0,
    "temperature": 0.0, "stream": False, "samplers": [], "cache_prompt": True, "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1, "response_fields": [""],
}  # fmt: skip
VSCODE: dict[str, Any] = {
    **GAP, "input_extra": CHUNKS, "n_predict": 8, "top_k": 40, "top_p": 0.99, "stream": False,
    "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "n_indent": 4, "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
}  # fmt: skip
VSCODE_WARM_UP: dict[str, Any] = {
    "input_prefix": "", "input_suffix": "", "input_extra": CHUNKS, "prompt": "", "n_predict": 0,
    "samplers": [], "cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 1,
}  # fmt: skip
VSCODE_EDIT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You are an expert coder."},
        {"role": "user", "content": "Modify the following original code ..."},
    ],
    "stream": False, "cache_prompt": True, "samplers": "edkypmxt", "temperature": 0.8, "dynatemp_range": 0,
    "dynatemp_exponent": 1, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "typical_p": 1, "xtc_probability": 0,
    "xtc_threshold": 0.1, "repeat_last_n": 64, "repeat_penalty": 1, "presence_penalty": 0,
    "frequency_penalty": 0, "dry_multiplier": 0, "dry_base": 1.75, "dry_allowed_length": 2,
    "dry_penalty_last_n": -1, "max_tokens": -1, "timings_per_token": False,
}  # fmt: skip
VSCODE_EDIT_WARM_UP: dict[str, Any] = {
    "messages": VSCODE_EDIT["messages"], "n_predict": 0, "samplers": [], "cache_prompt": True,
    "t_max_prompt_ms": 500, "t_max_predict_ms": 1,
}  # fmt: skip
SILLY_TAVERN: dict[str, Any] = {
    "prompt": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "max_new_tokens": 8, "max_tokens": 8,
    "temperature": 1, "top_p": 0.95, "typical_p": 1, "typical": 1, "min_p": 0.01, "repetition_penalty": 1.1,
    "frequency_penalty": 0, "presence_penalty": 0, "top_k": 0, "skew": 0, "min_tokens": 0,
    "add_bos_token": True, "smoothing_factor": 0, "smoothing_curve": 1, "dry_allowed_length": 2,
    "dry_multiplier": 0, "dry_base": 1.75, "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "dry_penalty_last_n": 0, "max_tokens_second": 0,
    "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "tfs_z", "typical_p", "xtc", "top_p",
                 "adaptive_p", "min_p", "temperature"],
    "stopping_strings": ["\nUser:", "\n***"], "stop": ["\nUser:", "\n***"], "truncation_length": 8192,
    "ban_eos_token": False, "skip_special_tokens": True, "include_reasoning": True, "top_a": 0, "tfs": 1,
    "mirostat_mode": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "custom_token_bans": "", "banned_strings": [],
    "api_type": "llamacpp", "api_server": "http://127.0.0.1:8080", "xtc_threshold": 0.1, "xtc_probability": 0,
    "nsigma": 0, "top_n_sigma": 0, "min_keep": 0, "adaptive_target": -0.01, "adaptive_decay": 0.9, "n": 1,
    "rep_pen": 1.1, "rep_pen_range": 0, "repetition_penalty_range": 0, "guidance_scale": 1,
    "negative_prompt": "", "repeat_penalty": 1.1, "repeat_last_n": 0, "n_predict": 8, "num_predict": 8,
    "num_ctx": 8192, "mirostat": 0, "ignore_eos": False, "rep_pen_slope": 1, "logit_bias": [], "grammar": "",
    "cache_prompt": True,
}  # fmt: skip


DYNAMIC: dict[str, Any] = {
    "temperature": (0.3 + 1.7) / 2, "dynamic_temperature": True, "dynatemp_low": 0.3, "dynatemp_high": 1.7,
    "dynatemp_range": (1.7 - 0.3) / 2, "dynatemp_exponent": 1,
}  # fmt: skip
"""SillyTavern's settings of a dynamic temperature, in addition to SILLY_TAVERN."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, plan_on_cpu: PlanOnCpu) -> Iterator[httpx.Client]:
    plan = plan_on_cpu(write(tmp_path_factory.mktemp("fim"), tuple(FIM)), n_ctx=4096, parallel=2)
    with (
        in_thread(listening_with(plan, "code")) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        yield client


def answer(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_llama_vim(client: httpx.Client) -> None:
    """It reads `content`, `tokens_cached` and each of the timings, by the path in the key."""
    assert answer(client, "/infill", VIM_WARM_UP) == {}
    hint = answer(client, "/infill", VIM)
    assert isinstance(hint["content"], str)
    assert {f"timings/{name}" for name in WISHED} | {"tokens_cached"} <= hint.keys()
    assert hint["timings/predicted_n"] <= 8


def test_llama_vscode(client: httpx.Client) -> None:
    assert answer(client, "/infill", VSCODE_WARM_UP)["tokens_predicted"] <= 1
    hint = answer(client, "/infill", VSCODE)
    assert isinstance(hint["content"], str)
    assert hint["timings"]["prompt_n"] >= 1
    assert hint["tokens_cached"] >= 1


@pytest.mark.parametrize(
    "body", [{**VSCODE_EDIT, "max_tokens": 8}, VSCODE_EDIT_WARM_UP], ids=["edit", "warm-up"]
)
def test_edits_of_llama_vscode(client: httpx.Client, body: dict[str, Any]) -> None:
    reply = answer(client, "/v1/chat/completions", body)
    assert isinstance(reply["choices"][0]["message"]["content"], str)


def test_silly_tavern(client: httpx.Client) -> None:
    assert answer(client, "/completion", SILLY_TAVERN)["tokens_predicted"] <= 8
    streamed = client.post("/completion", json={**SILLY_TAVERN, "stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in streamed.text.splitlines() if line]
    assert events[-1]["stop"] is True
    assert all(isinstance(event["content"], str) for event in events)
    props = client.get("/props").json()  # it looks for its instruct template by a hash of this one
    assert isinstance(props["chat_template"], str)
    assert client.get("/v1/models").json()["data"][0]["id"] == "code"


def test_a_dynamic_temperature_of_silly_tavern(client: httpx.Client) -> None:
    settings = answer(client, "/completion", {**SILLY_TAVERN, **DYNAMIC})["generation_settings"]
    assert settings["temperature"] == pytest.approx(1)
    assert settings["dynatemp_range"] == pytest.approx(0.7)
    assert settings["dynatemp_exponent"] == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"rep_pen": 1.2}, "rep_pen"),
        ({"rep_pen_range": 64}, "rep_pen_range"),
        ({"max_new_tokens": 9}, "max_new_tokens"),
        ({"stopping_strings": ["x"]}, "stopping_strings"),
        ({"dynamic_temperature": True}, "dynamic_temperature"),
        ({**DYNAMIC, "dynatemp_low": 0.4}, "dynatemp_low"),
        ({**DYNAMIC, "dynatemp_high": 1.4}, "dynatemp_high"),
        ({**DYNAMIC, "temperature": 0.9}, "dynatemp_low"),
        ({"skew": 1}, "skew"),
        ({"tfs": 0.5}, "tfs"),
        ({"smoothing_factor": 1}, "smoothing_factor"),
        ({"samplers": ["top_k", "wonder"]}, "samplers[1]"),
    ],
)
def test_settings_of_silly_tavern_that_are_not_done_are_refused(
    client: httpx.Client, change: dict[str, Any], param: str
) -> None:
    reply = client.post("/completion", json={**SILLY_TAVERN, **change})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
