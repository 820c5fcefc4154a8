"""Flags whose meaning depends on others, or on the devices."""

import json
import re
from collections.abc import Callable, Mapping

import click

from vram_llm.cli.key_options import VARIABLE
from vram_llm.cli.llama_server_line.draft_rules import DRAFT_RULES
from vram_llm.cli.llama_server_line.model_rules import MODEL_RULES, finish_model, is_router
from vram_llm.cli.llama_server_line.placement_rules import PLACEMENT_RULES, finish_placement
from vram_llm.cli.llama_server_line.read_line import Given
from vram_llm.cli.llama_server_line.rope_rules import ROPE_RULES
from vram_llm.cli.llama_server_line.translation import Translation

_ANY_ORIGIN = "*"
_MIB_UNIT = "MiB"
_FLAG_OF = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "temperature", "dynatemp_range", "top_k", "top_p", "min_p", "top_n_sigma", "typical_p",
        "xtc_probability", "dry_multiplier", "repeat_penalty", "presence_penalty", "frequency_penalty",
    )
}  # fmt: skip
"""The options of `serve` for fields of SamplingParams that switch a filter off."""

_PENALTY_RANGE = "64"  # tokens (common/common.h)
_RANGES = {
    "--repeat-last-n": ("--repeat-penalty", "--presence-penalty", "--frequency-penalty"),
    "--dry-penalty-last-n": ("--dry-multiplier",),
}


def _host(found: Translation, given: Given) -> None:
    hosts = [host.strip() for host in str(given.value).split(",")]
    if sockets := [host for host in hosts if host.endswith(".sock")]:
        raise click.UsageError(
            f"{given.name} {sockets[0]}: the server listens on addresses, not on UNIX sockets"
        )
    found.add("--host", ",".join(hosts))


def _api_key(found: Translation, given: Given) -> None:
    """Keys of the environment stay there, so that neither --print nor a list of processes shows them."""
    text = str(given.value)
    keys = [key for part in text.split(",") if (key := part.strip())]
    if not given.is_variable:
        found.add(*(word for key in keys for word in ("--api-key", key)))
    elif any(len(key.split()) > 1 for key in keys):
        raise click.UsageError(f"{given.name}: a key in a variable has no spaces; give --api-key-file FILE")
    elif keys:
        found.environment[VARIABLE] = " ".join(keys)
        commands = f'$(echo "{given.name}" | tr , " ")' if "," in text else given.name
        found.secrets[VARIABLE] = f'"{commands}"'


def _alias(found: Translation, given: Given) -> None:
    """llama-server keeps names sorted, and the first is the model's."""
    if found.line.last("-a") is not given:
        return
    lists = (each.value for each in found.line.given if each.flag is given.flag)
    names = sorted({name.strip() for names in lists for name in str(names).split(",") if name.strip()})
    for place, name in enumerate(names):
        found.add("--alias" if place else "--served-model-name", name)


def _cache_ram(found: Translation, given: Given) -> None:
    if given.value == "-1":
        found.ignored.append(f"ignored: {given}: the host cache takes what the plan leaves free")
    else:
        found.add("--slots-ram", f"{given.value}{_MIB_UNIT}" if given.value != "0" else "0")


def _slot_save_path(found: Translation, given: Given) -> None:
    """llama-server saves prompts of any length, so they are kept from the first token on."""
    found.add("--slot-save-path", str(given.value))
    found.add("--cache-reuse", "1")


def _template_variables(found: Translation, given: Given) -> None:
    try:
        variables = json.loads(str(given.value))
    except ValueError as error:
        raise click.UsageError(f"{given.name}: {given.value!r} is not JSON ({error})") from None
    if not isinstance(variables, dict):
        raise click.UsageError(f"{given.name}: {given.value!r} is not a JSON object")
    found.template_variables = {**variables, **found.template_variables}


def _read_later(_found: Translation, _given: Given) -> None:
    """`finish` reads it."""


def _finish_samplers(found: Translation, given: Given) -> None:
    """Switch off the filters that are missing from the list, by their fields, after the line's own values."""
    from vram_llm.errors import RequestError
    from vram_llm.server.samplers_field import sampler_settings

    text = re.sub(r"\btemp\b", "temperature", str(given.value))
    try:
        off = sampler_settings(text)
    except RequestError as error:
        raise click.UsageError(f"{given.name}: {error}") from None
    if "samplers" in off:
        raise click.UsageError(
            f"{given}: another order than llama-server's own: send samplers in each request"
        )
    for name, value in off.items():
        found.add(_FLAG_OF[name], f"{value:g}")


def _penalty_ranges(found: Translation) -> None:
    """A penalty of the line counts the tokens that it counts in llama-server, where no range is given."""
    if is_router(found.line):
        return
    for option, penalties in _RANGES.items():
        if found.line.last(option) is None and any(map(found.line.last, penalties)):
            found.add(option, _PENALTY_RANGE)


def _embeddings(found: Translation, given: Given) -> None:
    if found.line.last("--pooling") is None:
        found.always.append(f"always so: {given}: the model's file says how it pools")


def _help(_found: Translation, _given: Given) -> None:
    raise click.UsageError("--help stands alone: `vram-llm llama-server --help`")


def _version(_found: Translation, _given: Given) -> None:
    raise click.UsageError("`vram-llm --version` prints the version")


RULES: Mapping[str, Callable[[Translation, Given], None]] = {
    "slot_save_path": _slot_save_path,
    **MODEL_RULES,
    **ROPE_RULES,
    **PLACEMENT_RULES,
    **DRAFT_RULES,
    "host": _host,
    "api_key": _api_key,
    "alias": _alias,
    "cache_ram": _cache_ram,
    "template_variables": _template_variables,
    "samplers": _read_later,
    "embeddings": _embeddings,
    "help": _help,
    "version": _version,
}


def finish(found: Translation) -> None:
    """Add llama-server's own values for flags that are not given, where those of `serve` are others."""
    line = found.line
    finish_model(found)
    finish_placement(found)
    _penalty_ranges(found)
    lists = [given for name in ("--samplers", "--sampler-seq") if (given := line.last(name)) is not None]
    if lists:
        _finish_samplers(found, max(lists, key=line.given.index))
    if line.last("--cors-origins") is None:
        found.add("--cors-origin", _ANY_ORIGIN)
    if line.last("--host") is not None and not any(map(line.last, ("--api-key", "--api-key-file"))):
        found.add("--insecure")
