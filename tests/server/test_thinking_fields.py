"""The many names for how to think, as one."""

import json
from typing import Any

import pytest

from vram_llm.errors import RequestError
from vram_llm.server.schemas import ChatCompletionRequest, parse
from vram_llm.server.thinking_fields import Thinking

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def thinking(**fields: Any) -> Thinking:
    return parse(ChatCompletionRequest, json.dumps({**CHAT, **fields}).encode()).thinking_wanted()


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, Thinking()),
        ({"reasoning_effort": "high"}, Thinking("high")),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, Thinking("low", "reasoning.effort")),
        ({"reasoning_effort": "low", "reasoning": {"effort": "low"}}, Thinking("low")),
        ({"reasoning": {"enabled": False}}, Thinking("none", "reasoning.enabled")),
        ({"reasoning": {"enabled": True}}, Thinking("medium", "reasoning.enabled")),
        ({"reasoning": {"enabled": True, "effort": "high"}}, Thinking("high", "reasoning.effort")),
        ({"reasoning": {"max_tokens": 50}}, Thinking("medium", "reasoning.max_tokens", 50)),
        ({"reasoning": {"max_tokens": 0}}, Thinking(n_tokens=0)),
        ({"reasoning": {"max_tokens": -1}}, Thinking()),
        ({"reasoning": {"exclude": True}}, Thinking(where="hidden")),
        ({"reasoning": {"exclude": False}}, Thinking()),
        ({"include_reasoning": False}, Thinking(where="hidden")),
        ({"include_reasoning": True}, Thinking()),
        ({"think": False}, Thinking("none", "think")),
        ({"think": True}, Thinking("medium", "think")),
        ({"think": "high"}, Thinking("high", "think")),
        ({"enable_thinking": False}, Thinking("none", "enable_thinking")),
        ({"thinking": {"type": "disabled"}}, Thinking("none", "thinking.type")),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, Thinking("medium", "thinking.type", 9)),
        ({"thinking": {"type": "adaptive"}}, Thinking()),
        ({"thinking_budget": 7}, Thinking("medium", "thinking_budget", 7)),
        ({"thinking_budget_tokens": 7, "thinking_budget": 7}, Thinking("medium", "thinking_budget", 7)),
        ({"reasoning_budget_tokens": -1}, Thinking()),
        ({"reasoning_format": "none"}, Thinking(where="inline")),
        ({"reasoning_format": "raw"}, Thinking(where="inline")),
        ({"reasoning_format": "auto"}, Thinking()),
        ({"reasoning_format": "deepseek"}, Thinking()),
        ({"reasoning_format": "hidden"}, Thinking(where="hidden")),
    ],
)
def test_wanted(fields: dict[str, Any], wanted: Thinking) -> None:
    assert thinking(**fields) == wanted


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
