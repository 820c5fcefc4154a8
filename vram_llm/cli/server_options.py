"""Options of `serve` that say how the HTTP server behaves, and how they become a ServerConfig."""

import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from vram_llm.cli.key_options import METAVAR, VARIABLE, keys_in, read_keys
from vram_llm.cli.sampling_options import SAMPLING, SAMPLING_OPTIONS, take_sampling
from vram_llm.server.config import LogFormat, ReasoningFormat, ReasoningMode, ServerConfig

_F = TypeVar("_F", bound=Callable[..., Any])
_DEFAULT = ServerConfig()
_LEAST_WATCHDOG_S = 2  # an idle engine gives a sign of life every half second
MODEL_FIELDS = (
    "request_timeout_s", "image_dir", "slot_save_path", "embd_normalize", "truncate", "spm_infill",
    "watchdog_s", "chat_template", "chat_template_kwargs", "reasoning", "reasoning_format",
    "reasoning_budget", "n_predict", "tags", "sampling",
)  # fmt: skip
"""Fields of ServerConfig that may differ between the models of one server, besides their names."""
MODEL_PARAMETERS = frozenset({*MODEL_FIELDS, *SAMPLING, "chat_template_file"} - {"sampling"})
"""The parameters of the options that set them."""


class JsonObjectType(click.ParamType[dict[str, Any]]):
    """A JSON object on the command line."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError) as error:
            self.fail(f"{value!r} is not JSON ({error}); write it like '{{\"key\": true}}'", param, ctx)
        if not isinstance(parsed, dict):
            self.fail(f"{value!r} is not a JSON object; write it like '{{\"key\": true}}'", param, ctx)
        return parsed


class ListType(click.ParamType[tuple[str, ...]]):
    """Texts, separated by commas."""

    name = "list"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(text.strip() for text in str(value).split(",") if text.strip()))


class WatchdogType(click.ParamType[float | None]):
    """At least two seconds, "auto" or "off"."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value in ("auto", "off"):
            return None if value == "auto" else math.inf
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not _LEAST_WATCHDOG_S <= seconds < math.inf:
            self.fail(
                f"{value!r} is not a time of {_LEAST_WATCHDOG_S} s or more; write it like 30, auto or off",
                param,
                ctx,
            )
        return seconds


_OPTIONS = (
    click.option("--host", default=_DEFAULT.host, show_default=True,
                 help="Address to listen on, or several with commas between: 127.0.0.1,::1."),
    click.option("--port", type=click.IntRange(0, 65535), default=_DEFAULT.port, show_default=True,
                 help="Port to listen on."),
    click.option("--api-key", "api_keys", multiple=True, envvar=VARIABLE, metavar=METAVAR, callback=read_keys,
                 help=(
        "Key that clients must send, or @ and a file of keys, one a line; # begins a comment. Repeat for "
        "more. Without this option $VRAM_LLM_API_KEY is read, which `ps` does not show."
    )),
    click.option("--api-key-file", type=click.Path(exists=True, dir_okay=False, readable=True),
                 metavar="FILE", help="The same as --api-key @FILE."),
    click.option("--keys-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=(
        "File of keys with names, scopes and models, as `vram-llm keys add NAME` writes it; SIGHUP reads it "
        "again."
    )),
    click.option("--shared-prefix-cache", is_flag=True, default=_DEFAULT.shared_prefix_cache, help=(
        "Share computed beginnings of prompts between API keys. The time to the first token then tells one "
        "key's user how another's prompt begins. By default each key has its own."
    )),
    click.option("--ssl-certfile", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=(
        "TLS certificate, with its chain, in PEM: serve https in place of http. SIGHUP reads it again."
    )),
    click.option("--ssl-keyfile", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=(
        "Key of the certificate, if it is not in the same file."
    )),
    click.option("--insecure", is_flag=True, default=_DEFAULT.insecure, help=(
        "Listen beyond this computer without an API key: anybody who reaches the port may use the model."
    )),
    click.option("--served-model-name", "model_name", metavar="NAME", help=(
        "Name of the model in the API.  [default: the file's name]"
    )),
    click.option("--alias", "-a", "aliases", multiple=True, metavar="NAME", help=(
        "Another name of the model in the API. Repeat for more, or separate names with commas."
    )),
    click.option("--tags", type=ListType(), default="", metavar="TAG,...", help=(
        "Tags of the model, for clients that list models; they change nothing else."
    )),
    click.option("--strict-model", is_flag=True, default=_DEFAULT.strict_model, help=(
        "Refuse requests that name another model. By default the server accepts every name."
    )),
    click.option("--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN", help=(
        'Let web pages of this origin use the server: "https://chat.example"; "localhost": this computer, '
        'at any port; "*": all origins. Repeat for more.'
    )),
    click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help=(
        "Accept requests for this host name, in addition to localhost. Without this option the server "
        "accepts every name, unless --host is a loopback address. Repeat for more."
    )),
    click.option("--image-dir", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 metavar="DIR", help=(
        "Let requests name files in DIR as images (file://NAME). Needs --mmproj. Without --image-dir the "
        "server reads no files."
    )),
    click.option("--embd-normalize", type=click.IntRange(-1), default=_DEFAULT.embd_normalize,
                 show_default=True, metavar="N", help=(
        "How vectors of embeddings are scaled, unless the request decides: -1: not at all; 0: the largest "
        "number is 32760; 1: the numbers add up to 1, without signs; 2: the length is 1; more: the N-norm is "
        "1."
    )),
    click.option("--slot-save-path", type=click.Path(exists=True, file_okay=False, path_type=Path),
                 metavar="FOLDER", help=(
        "Let requests save slots, which are computed prompts, in files of FOLDER, and restore them after a "
        "restart: POST /slots/N?action=save, restore or erase."
    )),
    click.option("--truncate", is_flag=True, default=_DEFAULT.truncate, help=(
        "Drop the oldest turns of a chat that does not fit the context, in place of refusing it, unless the "
        "request decides (its field truncate). Replies say how many messages were dropped."
    )),
    click.option("--spm-infill", is_flag=True, default=_DEFAULT.spm_infill, help=(
        "POST /infill puts the suffix before the prefix, as some models want it (llama-server's flag)."
    )),
    click.option("--slots/--no-slots", "endpoint_slots", default=_DEFAULT.endpoint_slots, show_default=True,
                 help="Answer GET /slots, which shows what is computed and no prompts."),
    click.option("--props", "endpoint_props", is_flag=True, default=_DEFAULT.endpoint_props, help=(
        "Answer POST /props, as llama-server's flag does; it changes nothing."
    )),
    click.option("--request-timeout", "request_timeout_s", type=click.FloatRange(0), metavar="SECONDS",
                 default=_DEFAULT.request_timeout_s, show_default=True, help=(
        "Time for a request, its wait in the queue included; then its answer ends as at max_tokens, and a "
        "request without an answer gets status 408. A request can only lower it (max_time). 0: no limit."
    )),
    click.option("--drain-timeout", "drain_timeout_s", type=click.FloatRange(0), metavar="SECONDS",
                 default=_DEFAULT.drain_timeout_s, show_default=True, help=(
        "Time for requests in flight to finish after SIGTERM or Ctrl+C. Meanwhile /health answers 503. A "
        "second signal ends them at once."
    )),
    click.option("--sse-ping-interval", "sse_ping_interval_s", type=click.FloatRange(0), metavar="SECONDS",
                 default=_DEFAULT.sse_ping_interval_s, show_default=True, help=(
        "Silence on a stream after which the server sends a comment, so that clients and proxies keep the "
        "connection; 0: never."
    )),
    click.option("--watchdog", "watchdog_s", type=WatchdogType(), default="auto", show_default=True,
                 metavar="SECONDS", help=(
        "Kill and restart the engine after SECONDS in which it neither gets on with a step nor uses a "
        "processor; off: never. auto: 20 times the time that the plan predicts for the step, at least 10 s. "
        "A step that keeps a processor busy has ten times as long, a load at least 60 s."
    )),
    click.option("-v", "--verbose", is_flag=True, default=_DEFAULT.verbose, help=(
        "Log everything, the engine's own lines and probes included, show each device's memory against the "
        "plan, and return a chat's prompt in its answer (`__verbose`)."
    )),
    click.option("--log-format", type=click.Choice([form.value for form in LogFormat]),
                 default=_DEFAULT.log_format.value, show_default=True, help=(
        "Form of the log's lines; json: an object a line."
    )),
    click.option("--log-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=(
        "Append the log to FILE too. When FILE is moved or removed, the next line begins it anew."
    )),
    click.option("--log-prompts", is_flag=True, default=_DEFAULT.log_prompts, help=(
        "Log each request's prompt, up to 20,000 characters."
    )),
    click.option("--chat-template", metavar="NAME|JINJA", help=(
        "Chat template to use in place of the model's own: one of llama.cpp's names (chatml, llama3, "
        "mistral-v7, gemma and others), or the text of a Jinja template."
    )),
    click.option("--chat-template-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                 metavar="FILE", help="Jinja chat template to use in place of the model's own."),
    click.option("--chat-template-kwargs", type=JsonObjectType(), default="{}", metavar="JSON", help=(
        "Variables for the chat template, as a JSON object. A request's variables override them."
    )),
    click.option("--reasoning", type=click.Choice([mode.value for mode in ReasoningMode]),
                 default=_DEFAULT.reasoning.value, show_default=True, help=(
        "Whether the model thinks before it answers; a request can override it. auto: the model thinks, "
        "unless its chat template has a switch that is off by default and is not named enable_thinking."
    )),
    click.option("--reasoning-format", type=click.Choice([form.value for form in ReasoningFormat]),
                 default=_DEFAULT.reasoning_format.value, show_default=True, help=(
        "Where chats show thinking, unless the request decides. auto, deepseek: in reasoning_content; none: "
        "in the content, between the model's marks."
    )),
    click.option("--reasoning-budget", type=click.IntRange(-1), metavar="TOKENS", help=(
        "Maximum thinking tokens per answer. At the limit the server ends the thinking, and the answer "
        "begins. A request can only lower the limit. -1: no limit.  [default: no limit]"
    )),
    click.option("--n-predict", "-n", "--predict", "n_predict", type=click.IntRange(-1), metavar="TOKENS",
                 help=(
        "max_tokens of requests without one; -1: no limit.  [default: no limit; 16 for /v1/completions, as "
        "OpenAI's]"
    )),
    *SAMPLING_OPTIONS,
)  # fmt: skip


def server_options(function: _F) -> _F:
    """Add the options of the server; the command gets them as one argument `server`."""

    def collect(**options: Any) -> Any:
        names = [field.name for field in fields(ServerConfig) if field.name in options]
        own = {name: options.pop(name) for name in names}
        own["aliases"] = tuple(
            name.strip() for names in own["aliases"] for name in names.split(",") if name.strip()
        )
        key_file, template_file = options.pop("api_key_file"), options.pop("chat_template_file")
        if key_file is not None:
            own["api_keys"] = (*own["api_keys"], *keys_in(key_file, click.get_current_context()))
        if own["keys_file"] is not None:
            _check_keys(own["keys_file"])
        if own["ssl_keyfile"] is not None and own["ssl_certfile"] is None:
            raise click.UsageError("--ssl-keyfile needs --ssl-certfile")
        own["chat_template"] = _template(own["chat_template"], template_file)
        if own["chat_template_kwargs"]:
            _check_kwargs(own["chat_template_kwargs"])
        budget = own["reasoning_budget"]
        own["reasoning_budget"] = None if budget == -1 else budget
        own["reasoning"] = ReasoningMode(own["reasoning"])
        own["reasoning_format"] = ReasoningFormat(own["reasoning_format"])
        own["log_format"] = LogFormat(own["log_format"])
        own["sampling"] = take_sampling(options)
        server = ServerConfig(**own)
        if server.ssl_certfile is not None:
            from vram_llm.server.certificate import check_certificate

            check_certificate(server)
        return function(server=server, **options)

    collect.__doc__ = function.__doc__
    for option in reversed(_OPTIONS):
        collect = option(collect)
    for param in getattr(function, "__click_params__", []):
        collect.__click_params__.append(param)  # type: ignore[attr-defined]  # click's own way to stack decorators
    return collect  # type: ignore[return-value]  # click calls it in place of `function`


def _template(given: str | None, file: Path | None) -> str | None:
    """The source of the chat template; None: the model's own. Raises UsageError."""
    if given is None:
        return None if file is None else _template_in(file)
    if file is not None:
        raise click.UsageError("--chat-template and --chat-template-file set the same: give one of them")
    from vram_llm.chat.builtin.table import BUILTIN_TEMPLATES
    from vram_llm.chat.template import BrokenTemplate, check_template

    if given in BUILTIN_TEMPLATES:
        return BUILTIN_TEMPLATES[given]
    if "{" not in given:
        names = ", ".join(sorted(BUILTIN_TEMPLATES))
        raise click.UsageError(f"{given!r} is neither a Jinja template nor one of llama.cpp's names: {names}")
    try:
        check_template(given, "--chat-template")
    except BrokenTemplate as error:
        raise click.UsageError(str(error)) from None
    return given


def _template_in(path: Path) -> str:
    """The source of a chat template. Raises UsageError if it cannot render a chat."""
    from vram_llm.chat.template import BrokenTemplate, check_template

    try:
        source = path.read_text(encoding="utf-8")
        check_template(source, str(path))
    except UnicodeDecodeError:
        raise click.UsageError(
            f"{path} is not text in UTF-8; --chat-template-file takes a Jinja file"
        ) from None
    except BrokenTemplate as error:
        raise click.UsageError(str(error)) from None
    return source


def _check_kwargs(given: dict[str, Any]) -> None:
    """Raises UsageError if a variable is the server's own."""
    from vram_llm.errors import RequestError
    from vram_llm.server.template_variables import check_variables

    try:
        check_variables(given)
    except RequestError as error:
        raise click.UsageError(
            str(error).replace("'chat_template_kwargs'", "--chat-template-kwargs")
        ) from None


def _check_keys(path: Path) -> None:
    """Raises BadKeysFile, and UsageError for a file without keys: nobody could use the server."""
    from vram_llm.server.keys_file import read_keys

    if not read_keys(path):
        raise click.UsageError(f"{path} holds no API key; `vram-llm keys add NAME --keys-file {path}`")
