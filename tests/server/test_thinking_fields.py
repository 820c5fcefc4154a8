"""The fields that control thinking, read as one setting."""

import json
from typing import Any

import pytest

from vram_llm.errors import RequestError
from vram_llm.server.config import ReasoningFormat
from vram_llm.server.schemas import ChatCompletionRequest, parse
from vram_llm.server.thinking_fields import ThinkingFields, ThinkingSettings

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def thinking(**fields: Any) -> ThinkingSettings:
    return parse(ChatCompletionRequest, json.dumps({**CHAT, **fields}).encode()).thinking_wanted()


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, ThinkingSettings()),
        ({"reasoning_effort": "high"}, ThinkingSettings("high")),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, ThinkingSettings("low", "reasoning.effort")),
        ({"reasoning_effort": "low", "reasoning": {"effort": "low"}}, ThinkingSettings("low")),
        ({"reasoning": {"enabled": False}}, ThinkingSettings("none", "reasoning.enabled")),
        ({"reasoning": {"enabled": True}}, ThinkingSettings("medium", "reasoning.enabled")),
        ({"reasoning": {"enabled": True, "effort": "high"}}, ThinkingSettings("high", "reasoning.effort")),
        ({"reasoning": {"max_tokens": 50}}, ThinkingSettings("medium", "reasoning.max_tokens", 50)),
        ({"reasoning": {"max_tokens": 0}}, ThinkingSettings(n_tokens=0)),
        ({"reasoning": {"max_tokens": -1}}, ThinkingSettings()),
        ({"reasoning": {"exclude": True}}, ThinkingSettings(where="hidden")),
        ({"reasoning": {"exclude": False}}, ThinkingSettings()),
        ({"include_reasoning": False}, ThinkingSettings(where="hidden")),
        ({"include_reasoning": True}, ThinkingSettings()),
        ({"think": False}, ThinkingSettings("none", "think")),
        ({"think": True}, ThinkingSettings("medium", "think")),
        ({"think": "high"}, ThinkingSettings("high", "think")),
        ({"enable_thinking": False}, ThinkingSettings("none", "enable_thinking")),
        ({"thinking": {"type": "disabled"}}, ThinkingSettings("none", "thinking.type")),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9}},
            ThinkingSettings("medium", "thinking.type", 9),
        ),
        ({"thinking": {"type": "adaptive"}}, ThinkingSettings()),
        ({"thinking_budget": 7}, ThinkingSettings("medium", "thinking_budget", 7)),
        (
            {"thinking_budget_tokens": 7, "thinking_budget": 7},
            ThinkingSettings("medium", "thinking_budget", 7),
        ),
        ({"reasoning_budget_tokens": -1}, ThinkingSettings()),
        ({"reasoning_format": "none"}, ThinkingSettings(where="inline")),
        ({"reasoning_format": "raw"}, ThinkingSettings(where="inline")),
        ({"reasoning_format": "auto"}, ThinkingSettings()),
        ({"reasoning_format": "deepseek"}, ThinkingSettings()),
        ({"reasoning_format": "hidden"}, ThinkingSettings(where="hidden")),
    ],
)
def test_wanted(fields: dict[str, Any], wanted: ThinkingSettings) -> None:
    assert thinking(**fields) == wanted


@pytest.mark.parametrize(
    ("field", "where"),
    [(None, "inline"), ("auto", "inline"), ("deepseek", "apart"), ("hidden", "hidden"), ("none", "inline")],
)
def test_the_servers_place_of_thinking_is_a_default(field: str | None, where: str) -> None:
    fields = ThinkingFields.model_validate({"reasoning_format": field})
    assert fields.thinking_wanted(ReasoningFormat.NONE).where == where


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning_effort": "none", "think": True}, "reasoning_effort"),
        ({"reasoning_effort": "low", "think": False}, "reasoning_effort"),
        ({"think": True, "enable_thinking": False}, "enable_thinking"),
        ({"thinking_budget": 7, "reasoning": {"max_tokens": 8}}, "thinking_budget"),
        ({"think": "very"}, "think"),
        ({"think": 1}, "think"),
        ({"reasoning_format": "xml"}, "reasoning_format"),
    ],
)
def test_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        thinking(**fields)
    assert caught.value.param == param
