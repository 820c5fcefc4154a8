"""Request fields that control thinking: whether to think, for how long, and where to show it.

`reasoning_effort` is OpenAI's, `reasoning` OpenAI's and OpenRouter's, `think` Ollama's, `thinking` Z.AI's and
DeepSeek's, `enable_thinking` and `thinking_budget` Qwen's, `reasoning_format` and `thinking_budget_tokens`
llama-server's.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, WithJsonSchema

from vram_llm.errors import RequestError
from vram_llm.server.config import ReasoningFormat
from vram_llm.server.known_fields import Fields
from vram_llm.server.sampling_fields import WHOLE

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Budget = Annotated[int, WHOLE, Field(ge=-1, lt=2**31)]  # tokens; -1: the server's default
Think = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["none", "low", "medium", "high"]}]})
]
_EFFORTS = get_args(Effort)
_OFF, _ON = "none", "medium"  # efforts that equal a switch


class ReasoningFields(Fields):
    """OpenAI's settings of thinking. Thinking is shown whole, which satisfies every `summary`."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class OpenRouterReasoning(ReasoningFields):
    """The same, with OpenRouter's fields."""

    max_tokens: Budget | None = None
    exclude: bool | None = None
    enabled: bool | None = None


class ThinkingSwitch(Fields):
    """Whether to think."""

    ignored: ClassVar[frozenset[str]] = frozenset({"clear_thinking"})

    type: Literal["enabled", "disabled", "adaptive", "auto"]
    budget_tokens: Budget | None = None


@dataclass(frozen=True, slots=True)
class ThinkingSettings:
    """The settings of thinking in a request. `field` is the field that set the effort.

    `effort` None: the server decides. `n_tokens`: the limit of thinking, in tokens; None: the server's.
    """

    effort: str | None = None
    field: str = "reasoning_effort"
    n_tokens: int | None = None
    where: Literal["apart", "inline", "hidden"] = "apart"


class ThinkingFields(Fields):
    """Several fields may be set, if they agree."""

    reasoning_effort: Effort | None = None
    reasoning: OpenRouterReasoning | None = None
    think: Think = None
    thinking: ThinkingSwitch | None = None
    enable_thinking: bool | None = None
    include_reasoning: bool | None = None
    reasoning_format: Literal["auto", "deepseek", "none", "parsed", "raw", "hidden"] | None = None
    thinking_budget: Budget | None = None
    thinking_budget_tokens: Budget | None = None
    reasoning_budget_tokens: Budget | None = None

    def thinking_wanted(self, default: ReasoningFormat = ReasoningFormat.AUTO) -> ThinkingSettings:
        """The settings of all fields. Raises RequestError if two contradict each other.

        `default`: the place of thinking if no field decides it.
        """
        field, effort = _agreed(self._efforts()) or ("reasoning_effort", None)
        switch = _agreed(self._switches())
        budget = _agreed(self._budgets())
        on = None if switch is None else switch[1]
        if switch is not None and effort is not None and on is (effort == _OFF):
            raise RequestError(f"'{field}' and '{switch[0]}' contradict each other; send one of them", field)
        if on is None and budget is not None and budget[1] > 0:
            on = True
        if effort is None and on is not None:
            field, effort = (switch or budget or ("", None))[0], _ON if on else _OFF
        return ThinkingSettings(
            effort=effort,
            field=field,
            n_tokens=None if budget is None else budget[1],
            where=self._where(default),
        )

    def _efforts(self) -> list[tuple[str, Any]]:
        think = self.think
        if think is not None and not isinstance(think, bool) and think not in _EFFORTS:
            raise RequestError("'think' must be true, false, 'low', 'medium' or 'high'", "think")
        return [
            ("reasoning_effort", self.reasoning_effort),
            ("reasoning.effort", self.reasoning.effort if self.reasoning else None),
            ("think", think if isinstance(think, str) else None),
        ]

    def _switches(self) -> list[tuple[str, Any]]:
        kind = self.thinking.type if self.thinking else None
        return [
            ("reasoning.enabled", self.reasoning.enabled if self.reasoning else None),
            ("think", self.think if isinstance(self.think, bool) else None),
            ("thinking.type", {"enabled": True, "disabled": False}.get(kind or "")),
            ("enable_thinking", self.enable_thinking),
        ]

    def _budgets(self) -> list[tuple[str, Any]]:
        given = [
            ("reasoning.max_tokens", self.reasoning.max_tokens if self.reasoning else None),
            ("thinking.budget_tokens", self.thinking.budget_tokens if self.thinking else None),
            ("thinking_budget", self.thinking_budget),
            ("thinking_budget_tokens", self.thinking_budget_tokens),
            ("reasoning_budget_tokens", self.reasoning_budget_tokens),
        ]
        return [(name, None if value == -1 else value) for name, value in given]

    def _where(self, default: ReasoningFormat) -> Literal["apart", "inline", "hidden"]:
        excluded = self.include_reasoning is False or bool(self.reasoning and self.reasoning.exclude)
        if excluded or self.reasoning_format == "hidden":
            return "hidden"
        form = default if self.reasoning_format in (None, "auto") else self.reasoning_format
        return "inline" if form in (ReasoningFormat.NONE, "raw") else "apart"


def _agreed(given: list[tuple[str, Any]]) -> tuple[str, Any] | None:
    """The first field with a value. Raises RequestError if another field's value differs."""
    present = [(name, value) for name, value in given if value is not None]
    for name, value in present[1:]:
        if value != present[0][1]:
            raise RequestError(f"'{present[0][0]}' and '{name}' are the same setting; send one of them", name)
    return present[0] if present else None
