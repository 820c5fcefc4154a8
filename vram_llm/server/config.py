"""Settings of the HTTP server: one object from the command's options to the application."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from vram_llm.units import MIB


class ReasoningMode(StrEnum):
    """Whether the model thinks if the request does not decide."""

    AUTO = "auto"  # as in llama-server: `enable_thinking` is true, other switches keep their default
    ON = "on"
    OFF = "off"


class ReasoningFormat(StrEnum):
    """The place of thinking in the answer to a chat, with llama-server's names."""

    AUTO = "auto"  # as DEEPSEEK
    DEEPSEEK = "deepseek"  # in `reasoning_content`
    NONE = "none"  # in the content, between the model's marks


class LogFormat(StrEnum):
    """The form of the log's lines."""

    TEXT = "text"
    JSON = "json"  # an object a line


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of the server. Each default lives here; click reads it from here.

    `sampling` holds SamplingParams fields for requests that leave them out; they override the model file's.
    `chat_template` is the source of a Jinja template that replaces the model file's.
    """

    host: str = "127.0.0.1"  # one address, or several separated by commas
    port: int = 8080  # 0: any free one
    model_name: str | None = None  # the name that clients use; None: the file's name
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()  # shown in lists of models
    strict_model: bool = False  # refuse other models' names with 404
    api_keys: tuple[str, ...] = ()
    keys_file: Path | None = None  # as `vram-llm keys` writes it
    shared_prefix_cache: bool = False  # between keys
    ssl_certfile: Path | None = None  # PEM; None: no TLS
    ssl_keyfile: Path | None = None  # None: the key is in the certificate's file
    insecure: bool = False  # listen beyond this computer without keys
    cors_origins: tuple[str, ...] = ()  # "*": every origin; "localhost": this computer's, at any port
    allowed_hosts: tuple[str, ...] = ()
    image_dir: Path | None = None
    embd_normalize: int = 2  # how vectors of embeddings are scaled, as llama-server counts: 2 is length 1
    truncate: bool = False  # chats that do not fit, unless the request decides
    spm_infill: bool = False  # POST /infill: the suffix before the prefix
    endpoint_props: bool = False  # POST /props
    endpoint_slots: bool = True  # GET /slots
    slot_save_path: Path | None = None  # the folder of saved slots; None: slots are not saved
    max_body_bytes: int = 32 * MIB
    verbose: bool = False  # log everything; add the prompt to chat answers, unless the request decides
    log_format: LogFormat = LogFormat.TEXT
    log_file: Path | None = None  # in addition to standard error
    log_prompts: bool = False  # in the line of each request
    request_timeout_s: float = 0.0  # 0: no limit
    drain_timeout_s: float = 10.0  # for requests in flight to finish after the first SIGTERM or Ctrl+C
    sse_ping_interval_s: float = 10.0  # 0: no comments in streams
    watchdog_s: float | None = None  # of engine.watchdog; None: by the plan's prediction; infinite: off
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    reasoning: ReasoningMode = ReasoningMode.AUTO
    reasoning_format: ReasoningFormat = ReasoningFormat.AUTO
    reasoning_budget: int | None = None  # tokens of thinking; None: no limit
    n_predict: int | None = None  # max_tokens of requests without it; -1: no limit; None: the route's own
    sampling: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def needs_key(self) -> bool:
        """Whether clients must send an API key."""
        return bool(self.api_keys) or self.keys_file is not None

    @property
    def scheme(self) -> str:
        """The scheme of the server's URL."""
        return "http" if self.ssl_certfile is None else "https"
