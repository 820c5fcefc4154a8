"""How each of llama.cpp's templates takes an effort: the names that it reads, and what its prompt becomes."""

from typing import Any

import pytest

from tests.chat.templates import NAMES, source_of
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.efforts import EFFORTS, find_efforts
from vram_llm.chat.template import ChatTemplate
from vram_llm.chat.template_probe import TemplateProbe

SWITCHED = {  # by enable_thinking alone
    "Apertus-8B-Instruct", "Bielik-11B-v3.0-Instruct", "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "GLM-4.6", "GLM-4.7-Flash", "HuggingFaceTB-SmolLM3-3B", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "Qwen-QwQ-32B", "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "Reka-Edge", "Spark2.5",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved",
    "llama-cpp-rwkv-world", "openbmb-MiniCPM5-1B", "poolside-Laguna-S-2.1", "poolside-Laguna-XS-2.1",
    "poolside-Laguna-XS.2",
}  # fmt: skip
_SWITCH: tuple[dict[str, Any], dict[str, Any]] = ({"enable_thinking": False}, {"enable_thinking": True})
TAKEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # for "none" and for "medium"
    **dict.fromkeys(SWITCHED, _SWITCH),
    "ByteDance-Seed-OSS": ({"thinking_budget": 0}, {"thinking_budget": -1}),
    "Cohere2MoE": ({"reasoning": False}, {"reasoning": True}),
    "Kimi-K3": (
        {"thinking": False, "thinking_effort": "low"},
        {"thinking": True, "thinking_effort": "high"},
    ),
    "MiniMax-M3": ({"thinking_mode": "disabled"}, {"thinking_mode": "enabled"}),
    "deepseek-ai-DeepSeek-V3.1": (
        {"enable_thinking": False, "thinking": False},
        {"enable_thinking": True, "thinking": True},
    ),
    "deepseek-ai-DeepSeek-V3.2": (
        {"enable_thinking": False, "thinking": False},
        {"enable_thinking": True, "thinking": True},
    ),
    "deepseek-ai-DeepSeek-V4": (
        {"enable_thinking": False, "thinking": False, "reasoning_effort": "none"},
        {"enable_thinking": True, "thinking": True, "reasoning_effort": "medium"},
    ),
    "deepseek-ai-DeepSeek-V4-Flash-0731": (
        {"enable_thinking": False, "thinking": False, "reasoning_effort": "none"},
        {"enable_thinking": True, "thinking": True, "reasoning_effort": "medium"},
    ),
    "ibm-granite-granite-3.3-2B-Instruct": ({"thinking": False}, {"thinking": True}),
    "inclusionai-ling-3.0-flash": (
        {"enable_thinking": False, "thinking_option": "off"},
        {"enable_thinking": True, "thinking_option": "on"},
    ),
    "muse-glimmer": ({"reasoning_strength": "low"}, {"reasoning_strength": "medium"}),
    "openai-gpt-oss-120b": ({"reasoning_effort": "low"}, {"reasoning_effort": "medium"}),
    "tencent-Hy3": ({"reasoning_effort": "no_think"}, {"reasoning_effort": "high"}),
    "upstage-Solar-Open-100B": ({"reasoning_effort": "minimal"}, {"reasoning_effort": "medium"}),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_names_that_a_template_reads(name: str) -> None:
    efforts = dialect_of(source_of(name)).efforts
    if name in TAKEN:
        assert set(efforts) == set(EFFORTS)
        assert (efforts["none"], efforts["medium"]) == TAKEN[name]
    else:
        assert efforts == {}


def test_how_many_templates_take_an_effort() -> None:
    assert len(TAKEN) == 34
    assert set(TAKEN) <= set(NAMES)


@pytest.mark.process  # computes for many seconds
@pytest.mark.parametrize("name", sorted(TAKEN))
@pytest.mark.parametrize("effort", EFFORTS)
def test_every_effort_renders(name: str, effort: str) -> None:
    """Some templates refuse values that they do not know."""
    source = source_of(name)
    template = ChatTemplate(source, "", "")
    assert template.render(
        [{"role": "user", "content": "hi"}], tools=[], **dialect_of(source).efforts[effort]
    )


@pytest.mark.parametrize(
    ("source", "none", "high"),
    [
        ("p{{ reasoning_effort }}", {"reasoning_effort": "low"}, {"reasoning_effort": "high"}),
        ("p{{ 1 if reasoning_effort == 'max' }}", {"reasoning_effort": "none"}, {"reasoning_effort": "high"}),
        (
            "p{{ 1 if enable_thinking }}{{ reasoning_effort if enable_thinking }}",
            {"enable_thinking": False, "reasoning_effort": "low"},
            {"enable_thinking": True, "reasoning_effort": "high"},
        ),
    ],
)
def test_efforts_of_small_templates(source: str, none: dict[str, Any], high: dict[str, Any]) -> None:
    efforts = find_efforts(TemplateProbe(source))
    assert (efforts["none"], efforts["high"]) == (none, high)


@pytest.mark.parametrize(
    "source", ["", "{{ messages[0].content }}", "{{ raise_exception('no') }}", "{{ oops("]
)
def test_templates_without_efforts(source: str) -> None:
    assert find_efforts(TemplateProbe(source)) == {}
