"""A fleet as the file of llama-server's --models-preset: a section for each model.

Form and keys: common/preset.cpp of llama.cpp, "Model presets" in tools/server/README.md. Keys are flags
without dashes. A value ends at a line's end, ";" or "#". The router of llama-server counts models, so it
gets the number of which any choice fits together.
"""

import shlex

from vram_llm.errors import BadPlan
from vram_llm.machine.types import DeviceKind
from vram_llm.planner.export.device_flags import environment_variables, exported_devices
from vram_llm.planner.export.exported_fleet import ExportedFleet, ExportedModel, check_values, most_at_a_time
from vram_llm.planner.export.llama_server import HOST_ADDRESS, PORT, as_comments, settings
from vram_llm.planner.export.setting import Setting

_OWN_FLAGS = frozenset({"--host", "--port"})  # the router gives each model its own
# flags that may be repeated; a key is read once, as CSV
_LISTS = frozenset({"--lora", "--lora-scaled", "--control-vector-scaled"})


def presets(fleet: ExportedFleet) -> str:
    """The text of the file, with the router's command in comments.

    Raises BadPlan if a value cannot stand in it, and the errors of `settings`.
    """
    cards = {
        device.id: device
        for model in fleet.models
        for device in exported_devices(model.plan).devices
        if device.kind is DeviceKind.CUDA
    }
    n_most = most_at_a_time(fleet)
    sections = [_section(model, tuple(cards), fleet.remarks_on(model)) for model in fleet.models]
    at_start = [model.name for model in fleet.models if model.preload][:n_most]
    lines = list(as_comments((*_command(fleet, tuple(cards), n_most), *fleet.remarks())))
    lines.append("version = 1")
    for model, section in zip(fleet.models, sections, strict=True):
        lines += ["", *section, f"load-on-startup = {str(model.name in at_start).lower()}"]
    return "\n".join(lines)


def _command(fleet: ExportedFleet, cards: tuple[str, ...], n_most: int) -> tuple[str, ...]:
    """The router's command, with the variables that number the cards as in the file."""
    variables: dict[str, str] = {}
    uuids: dict[str, str] = {}
    for model in fleet.models:
        exported = exported_devices(model.plan)
        variables |= dict(environment_variables(model.plan, exported))
        ids = [device.id for device in exported.devices if device.kind is DeviceKind.CUDA]
        uuids |= dict(zip(ids, exported.uuids, strict=True))
    if cards:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(uuids[card] for card in cards)
    words = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    arguments = f"--models-preset FILE --models-max {n_most} --host {HOST_ADDRESS} --port {PORT}"
    total = len(fleet.models)
    which = "All models fit together." if n_most == total else f"Any {n_most} of {total} models fit together."
    if n_most == 1 < total:
        which = f"Not every two of {total} models fit together."
    return (
        " ".join([*words, "llama-server", arguments]),
        f"{which} The router unloads by number, not by memory.",
    )


def _section(model: ExportedModel, cards: tuple[str, ...], remarks: tuple[str, ...]) -> list[str]:
    exported = exported_devices(model.plan, cards)
    values: dict[str, str] = {}
    for setting in (*settings(model.plan, exported), *model.settings):
        if setting.flag in _OWN_FLAGS:
            continue
        if setting.second_value is not None:
            raise BadPlan(f"a preset of llama-server has no place for {setting.flag}, which has two values")
        key, value = setting.flag.removeprefix("--"), setting.value or "true"
        if setting.flag in _LISTS:
            value = ",".join([*filter(None, [values.get(key)]), _csv(setting)])
        values[key] = value
    if model.aliases:
        values["alias"] = ",".join(model.aliases)
    check_values({"name": model.name}, "]:;#", "a section of llama-server's presets")
    check_values(values, ";#", "a preset of llama-server")
    lines = as_comments(remarks)
    return [*lines, f"[{model.name}]", *(f"{key} = {value}" for key, value in values.items())]


def _csv(setting: Setting) -> str:
    value = setting.value or ""
    return '"' + value.replace('"', '""') + '"' if "," in value or '"' in value else value
