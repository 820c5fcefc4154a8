"""The variables of a chat template: the server's, its options', and the request's."""

from collections.abc import Mapping
from typing import Any

from vram_llm.chat.dialect import Dialect
from vram_llm.chat.efforts import OFF, switches
from vram_llm.errors import RequestError
from vram_llm.server.config import ReasoningMode, ServerConfig
from vram_llm.server.errors import NotSupported

_FIELD = "chat_template_kwargs"
_OURS = frozenset({"messages", "tools", "functions", "add_generation_prompt", "bos_token", "eos_token"})


def template_variables(
    dialect: Dialect,
    config: ServerConfig,
    effort: str | None,
    given: Mapping[str, Any],
    effort_field: str = "reasoning_effort",
) -> dict[str, Any]:
    """The variables for one rendering, including `enable_thinking`; `given` are the request's own.

    The request's own come before those of its effort, these before `config.chat_template_kwargs`, these
    before `config.reasoning`. As in llama-server, thinking is on by default if the dialect has thinking. An
    effort has no effect if the template has no efforts. Raises RequestError. Raises NotSupported for an
    effort, sent as `effort_field`, if the model's thinking is not parsed.
    """
    check_variables(given)
    efforts = {} if effort is None else dialect.efforts.get(effort, {})
    if efforts and dialect.thinking is None and effort not in OFF:
        raise NotSupported(
            "This model's thinking is not parsed, so it would be part of the answer; "
            f"leave '{effort_field}' out, or switch thinking off",
            effort_field,
        )
    names: dict[str, Any] = {"enable_thinking": dialect.thinking is not None}
    if config.reasoning is ReasoningMode.ON:
        names |= switches(dialect.efforts)
    names |= _switched(dialect, config.chat_template_kwargs)
    if effort is not None:
        names["enable_thinking"] = effort not in OFF
    return {**names, **efforts, **_switched(dialect, given)}


def _switched(dialect: Dialect, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, with its `enable_thinking` also under the template's own names."""
    on = given.get("enable_thinking")
    return {**switches(dialect.efforts, on=on), **given} if isinstance(on, bool) else dict(given)


def check_variables(given: Mapping[str, Any]) -> None:
    """Raises RequestError if `given` holds a variable of the server's, or a switch that is not a boolean."""
    if taken := sorted(_OURS & given.keys()):
        raise RequestError(f"'{taken[0]}' in 'chat_template_kwargs' is set by the server", _FIELD)
    if not isinstance(given.get("enable_thinking", True), bool):
        raise RequestError("'chat_template_kwargs.enable_thinking' must be true or false", _FIELD)
