"""How the HTTP server behaves: the one parameter from a command's options to the application."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from vram_llm.units import MIB


class ReasoningMode(StrEnum):
    """Whether the model thinks where a request does not say."""

    AUTO = (
        "auto"  # as in llama-server: `enable_thinking` is true, other switches are as the template has them
    )
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of the server. Each default lives here; click reads it from here.

    `sampling` holds fields of SamplingParams that stand in for what a request leaves out, before those of
    the model's file. `chat_template` is the source of a Jinja template, in place of the file's own.
    """

    host: str = "127.0.0.1"  # or several, with commas between
    port: int = 8080  # 0: any free one
    model_name: str | None = None  # what clients call the model; None: its file's name
    aliases: tuple[str, ...] = ()
    strict_model: bool = False  # a name that is not the model's is refused with 404
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()  # "*": every origin; "localhost": this computer's, at any port
    allowed_hosts: tuple[str, ...] = ()
    image_dir: Path | None = None
    max_body_bytes: int = 32 * MIB
    verbose: bool = False  # chats are answered with their prompt too, unless they say otherwise
    sse_ping_interval_s: float = 10.0  # 0: no comments in streams
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    reasoning: ReasoningMode = ReasoningMode.AUTO
    reasoning_budget: int | None = None  # tokens of thinking; None: no limit
    sampling: Mapping[str, float | int] = field(default_factory=dict)
