"""The variables of a chat template: the server's, those of its options, and a request's."""

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
    """Variables for one rendering, `enable_thinking` among them; `given` are a request's own.

    A request's own come before those of its effort, these before `config.chat_template_kwargs`, and these
    before `config.reasoning`. As in llama-server, thinking is on where nothing switches it off, if the
    dialect knows thinking at all. An effort asks for no other answer, so it changes nothing where the
    template takes none. Raises RequestError, and NotSupported for an effort, sent as `effort_field`, whose
    thinking is not parsed.
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
    """`given`, with what its `enable_thinking` means under the names that the template reads."""
    on = given.get("enable_thinking")
    return {**switches(dialect.efforts, on=on), **given} if isinstance(on, bool) else dict(given)


def check_variables(given: Mapping[str, Any]) -> None:
    """Raises RequestError where `given` holds a name of the server's, or a switch that is no boolean."""
    if taken := sorted(_OURS & given.keys()):
        raise RequestError(f"'{taken[0]}' in 'chat_template_kwargs' is the server's", _FIELD)
    if not isinstance(given.get("enable_thinking", True), bool):
        raise RequestError("'chat_template_kwargs.enable_thinking' must be true or false", _FIELD)
