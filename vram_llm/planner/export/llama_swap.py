"""A fleet as llama-swap's config.yaml: a llama-server for each model, and the models that run together.

Keys and meanings: config-schema.json and docs/config.example.yaml of llama-swap. `groups` say "one of these,
and one of those"; where the sets that fit are not of that form, `matrix` lists them.
"""

import json
import math
import re
import shlex
from collections.abc import Iterable

from vram_llm.errors import BadPlan
from vram_llm.planner.export.device_flags import environment_variables, exported_devices
from vram_llm.planner.export.exported_fleet import ExportedFleet, ExportedModel, alternatives
from vram_llm.planner.export.llama_server import as_comments, settings

_SCHEMA = "https://raw.githubusercontent.com/mostlygeek/llama-swap/main/config-schema.json"
_LEAST_TIMEOUT_S = 120  # llama-swap's default for a model to become ready
_SLOWER = 4  # times the predicted load, before llama-swap gives a model up
_LONGEST_VARIABLE = 8  # characters of a model's name in the matrix
_OWN_FLAGS = frozenset({"--host", "--port"})
_HEAD = (
    "llama-swap -config FILE. Models that are listed together below fit together: they are planned together",
    "on the devices of this machine.",
)


def llama_swap_config(fleet: ExportedFleet) -> str:
    """The text of config.yaml.

    Raises BadPlan if a path cannot stand in it, and the errors of `settings`.
    """
    longest_s = max((model.load_s or 0.0 for model in fleet.models), default=0.0)
    lines = [f"# yaml-language-server: $schema={_SCHEMA}", *as_comments((*_HEAD, *fleet.remarks()))]
    lines.append(f"healthCheckTimeout: {max(_LEAST_TIMEOUT_S, math.ceil(longest_s * _SLOWER))}")
    lines.append("models:")
    for model in fleet.models:
        lines += _model(model, fleet.remarks_on(model))
    groups = alternatives(fleet)
    lines += _matrix(fleet) if groups is None else _groups(groups)
    if preloaded := [model.name for model in fleet.models if model.preload]:
        lines += ["hooks:", "  on_startup:", f"    preload: {json.dumps(preloaded)}"]
    return "\n".join(lines)


def _model(model: ExportedModel, remarks: Iterable[str]) -> list[str]:
    exported = exported_devices(model.plan)
    used = (
        setting
        for setting in (*settings(model.plan, exported), *model.settings)
        if setting.flag not in _OWN_FLAGS
    )
    command = ["llama-server", "--port ${PORT}", *(_quoted(setting.arguments) for setting in used)]
    lines = [f"  {json.dumps(model.name)}:"]
    lines += [f"    {line}" for line in as_comments(remarks)]
    lines += ["    cmd: |", *(f"      {line}" for line in command)]
    if variables := environment_variables(model.plan, exported):
        lines += ["    env:", *(f"      - {json.dumps(f'{name}={value}')}" for name, value in variables)]
    if model.aliases:
        lines.append(f"    aliases: {json.dumps(model.aliases)}")
    ttl_s = 0 if model.ttl_s is None else max(round(model.ttl_s), 1)
    lines.append(f"    ttl: {ttl_s}")
    return lines


def _quoted(arguments: Iterable[str]) -> str:
    """Arguments on one line for llama-swap, which replaces `${NAME}` and splits the rest like a shell."""
    for argument in arguments:
        if "${" in argument or not argument.isprintable():
            raise BadPlan(f"llama-swap's config.yaml cannot hold {argument!r}: rename the file")
    return shlex.join(arguments)


def _groups(groups: Iterable[tuple[str, ...]]) -> list[str]:
    """One group of the models that stay, and one for each set of models of which one runs at a time."""
    listed = list(groups)
    stays = [group[0] for group in listed if len(group) == 1]
    lines = ["groups:"]
    if stays:
        lines += _group("together", stays, swap=False)
    for number, group in enumerate((group for group in listed if len(group) > 1), 1):
        lines += _group(f"one-of-{number}", group, swap=True)
    return lines


def _group(name: str, members: Iterable[str], *, swap: bool) -> list[str]:
    return [
        f"  {name}:",
        f"    swap: {json.dumps(swap)}",
        "    exclusive: false",
        f"    members: {json.dumps(list(members))}",
    ]


def _matrix(fleet: ExportedFleet) -> list[str]:
    variables = _variables([model.name for model in fleet.models])
    costs = _costs(fleet.models)
    lines = ["matrix:", "  vars:"]
    lines += [f"    {variable}: {json.dumps(name)}" for name, variable in variables.items()]
    lines += [
        "  evict_costs:",
        *(f"    {variables[name]}: {cost}" for name, cost in costs.items()),
        "  sets:",
    ]
    for number, fitting in enumerate(fleet.sets, 1):
        together = " & ".join(variable for name, variable in variables.items() if name in fitting)
        lines.append(f"    set{number}: {json.dumps(together)}")
    return lines


def _variables(names: Iterable[str]) -> dict[str, str]:
    """A name of at most eight letters and figures for each model."""
    taken: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        short = re.sub(r"[^A-Za-z0-9]", "", name)[:_LONGEST_VARIABLE]
        taken[name] = short if short and short not in taken.values() else f"m{number}"
    return taken


def _costs(models: Iterable[ExportedModel]) -> dict[str, int]:
    """Costs of unloading: seconds of the load; for a higher priority, more than all lower ones together."""
    costs: dict[str, int] = {}
    below = 0
    by_priority = sorted(models, key=lambda model: model.priority)
    for priority in sorted({model.priority for model in by_priority}):
        same = [model for model in by_priority if model.priority == priority]
        costs |= {model.name: below + max(round(model.load_s or 1.0), 1) for model in same}
        below = sum(costs.values())
    return costs
