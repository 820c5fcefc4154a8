"""The bodies of POST /v1/messages (anthropic 2.13: types/beta/message_create_params.py)."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from vram_llm.engine.request import Grammar
from vram_llm.errors import RequestError
from vram_llm.server.anthropic.context import ContextManagement
from vram_llm.server.anthropic.message import AnthropicMessage, Blocks, CachedFields, Effort
from vram_llm.server.anthropic.tools import ClientTool
from vram_llm.server.errors import NotSupported
from vram_llm.server.grammar_fields import of_response_format
from vram_llm.server.known_fields import Neutral, check_names
from vram_llm.server.sampling_fields import WHOLE
from vram_llm.server.schemas import MAX_MESSAGES, MAX_STOPS, MAX_TOKENS, GenerationFields
from vram_llm.server.tool_choice import ParsedToolChoice
from vram_llm.server.tools import MAX_TOOLS


class OutputConfig(CachedFields):
    """The effort and the form of the answer. A `task_budget` is advice for the model."""

    ignored: ClassVar[frozenset[str]] = frozenset({"task_budget"})

    effort: Effort | None = None
    format: dict[str, Any] | None = None


class ToolChoice(CachedFields):
    """Whether the model must call a tool, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def choice(self) -> ParsedToolChoice:
        """The choice in the form of the other APIs. Raises RequestError."""
        if self.type == "tool" and self.name is None:
            raise RequestError("'tool_choice' of type 'tool' needs a 'name'", "tool_choice.name")
        if self.type == "none":
            return ParsedToolChoice("none")
        return ParsedToolChoice(
            "auto" if self.type == "auto" else "required", self.name if self.type == "tool" else None
        )


class ThinkingConfig(CachedFields):
    """Whether to think, and the limit in tokens. A `display` of "omitted" hides the thinking."""

    ignored: ClassVar[frozenset[str]] = frozenset({"block_binding"})

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, WHOLE, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted", "updates", "full"] | None = None


class CountFields(GenerationFields):
    """POST /v1/messages/count_tokens."""

    not_yet: ClassVar[Neutral] = {
        "mcp_servers": ([],),
        "compaction": (),
        "safeguards": ([],),
        "thread": (),
    }

    messages: Annotated[list[AnthropicMessage], Field(max_length=MAX_MESSAGES)]
    n: Literal[1] | None = None
    max_tokens: Annotated[int, WHOLE, Field(ge=1, le=MAX_TOKENS)] | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    system: Blocks = None
    tools: Annotated[list[ClientTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: dict[str, Any] | None = None  # the older name
    context_management: ContextManagement | None = None
    truncate: bool | None = None  # drop the oldest turns if the chat does not fit, see server.truncation
    container: Any = None  # for code that Anthropic runs
    # The following fields have no effect: prompts are reused anyway, and there is one model.
    cache_control: Any = None
    metadata: dict[str, Any] | None = None
    betas: Any = None
    anthropic_version: Any = None
    anthropic_beta: Any = None
    inference_geo: Any = None
    speed: Any = None
    diagnostics: Any = None
    fallbacks: Any = None
    fallback_credit_token: Any = None
    billing_policy: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None

    def check(self, n_ctx: int) -> None:
        """Raises RequestError for fields that cannot be obeyed; `n_ctx` is the context's size, in tokens."""
        if isinstance(self.container, dict) and self.container.get("skills"):
            raise NotSupported("'container.skills' are not run here; leave them out", "container.skills")
        if self.context_management is not None:
            self.context_management.check(n_ctx)

    def choice(self) -> ParsedToolChoice:
        """The calls that the request wants. Raises RequestError."""
        return self.tool_choice.choice() if self.tool_choice else ParsedToolChoice()

    @property
    def parallel(self) -> bool:
        return not (self.tool_choice and self.tool_choice.disable_parallel_tool_use)

    @property
    def effort(self) -> str | None:
        """The effort of thinking; None: the template's default."""
        thinking = self.thinking
        if thinking and (thinking.type == "disabled" or thinking.budget_tokens == 0):
            return "none"
        efforts = [message.output_config.effort for message in self.messages if message.output_config]
        own = next((effort for effort in reversed(efforts) if effort), None)
        own = own or (self.output_config.effort if self.output_config else None)
        if own is None and thinking and thinking.type == "enabled":
            return "medium"
        return own

    @property
    def thinking_budget(self) -> int | None:
        """The limit of thinking, in tokens; None: no limit."""
        return self.thinking.budget_tokens if self.thinking and self.thinking.type == "enabled" else None

    @property
    def shows_thinking(self) -> bool:
        return not (self.thinking and self.thinking.display == "omitted")

    def grammar_wanted(self) -> Grammar | None:
        """The grammar that the answer must match. Raises RequestError."""
        formats = {
            "output_config.format": self.output_config.format if self.output_config else None,
            "output_format": self.output_format,
        }
        given = [(at, value) for at, value in formats.items() if value is not None]
        other = super().grammar_wanted()
        if len(given) + (other is not None) > 1:
            second = other.field if other is not None else given[1][0]
            raise RequestError(
                f"'{given[0][0]}' and '{second}' both constrain the answer; send one of them", second
            )
        if not given:
            return other
        (at, value), form = given[0], given[0][1]
        if value.get("type") != "json_schema" or not isinstance(value.get("schema"), dict):
            raise RequestError(f"'{at}' must be of type 'json_schema' with a 'schema'", at)
        known = ("type", "schema", "name", "description", "strict")
        check_names(
            {name: form[name] for name in form if name not in known}, at, frozenset({"cache_control"})
        )
        form = {name: form[name] for name in known if name in form}
        grammar = of_response_format({"type": "json_schema", "json_schema": {**form, "strict": True}})
        assert grammar is not None
        return replace(grammar, field=at)

    def stops(self) -> tuple[str, ...]:
        """The stop strings. Raises RequestError."""
        stops = tuple(self.stop_sequences or ())
        if len(stops) > MAX_STOPS:
            raise RequestError(
                f"'stop_sequences' holds {len(stops)}; {MAX_STOPS} is the most", "stop_sequences"
            )
        return stops


class MessagesFields(CountFields):
    """POST /v1/messages."""

    max_tokens: Annotated[int, WHOLE, Field(ge=1, le=MAX_TOKENS)]
