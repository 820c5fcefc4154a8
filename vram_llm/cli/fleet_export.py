"""A fleet's plan as the configuration file of another program."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from vram_llm.model.location import is_remote
from vram_llm.planner.export.exported_fleet import ExportedFleet, ExportedModel
from vram_llm.planner.export.llama_server_presets import presets
from vram_llm.planner.export.llama_swap import llama_swap_config
from vram_llm.planner.export.setting import Setting
from vram_llm.planner.fleet.types import FleetPlan, PackedModel
from vram_llm.planner.types import Plan
from vram_llm.server.config import ReasoningMode, ServerConfig

LLAMA_SWAP, PRESETS = "llama-swap", "llama-server-presets"
FLEET_FORMATS = (LLAMA_SWAP, PRESETS)
_SAMPLERS = {  # names of SamplingParams, flags of llama-server
    "temperature": "--temp",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "repeat_penalty": "--repeat-penalty",
    "seed": "--seed",
}


def emit_fleet(plan: FleetPlan, servers: Mapping[str, ServerConfig], export_format: str) -> str:
    """The file, in one of FLEET_FORMATS. `servers` are by the model's name. Raises BadPlan."""
    fleet = ExportedFleet(
        models=tuple(_exported(plan, model, servers[model.spec.name]) for model in plan.models),
        sets=plan.sets,
        together=plan.together,
    )
    return llama_swap_config(fleet) if export_format == LLAMA_SWAP else presets(fleet)


def _exported(plan: FleetPlan, model: PackedModel, server: ServerConfig) -> ExportedModel:
    replica = model.replicas[0]
    remarks = () if server.chat_template is None else (f"{model.spec.name}: add its chat template.",)
    return ExportedModel(
        name=model.spec.name,
        plan=with_whole_path(replica.plan),
        aliases=model.spec.aliases,
        settings=tuple(_settings(server)),
        priority=model.spec.priority,
        preload=model.spec.name in plan.resident_at_start,
        ttl_s=model.spec.ttl_s,
        load_s=replica.load_s,
        n_replicas=len(model.replicas),
        remarks=remarks,
    )


def _settings(server: ServerConfig) -> Iterator[Setting]:
    for name, flag in _SAMPLERS.items():
        if name in server.sampling:
            yield Setting(flag, f"{server.sampling[name]:.10g}", None)
    if server.chat_template_kwargs:
        yield Setting("--chat-template-kwargs", json.dumps(dict(server.chat_template_kwargs)), None)
    if server.reasoning is not ReasoningMode.AUTO:
        yield Setting("--reasoning", server.reasoning.value, None)
    if server.reasoning_budget is not None:
        yield Setting("--reasoning-budget", str(server.reasoning_budget), None)
    if server.slot_save_path is not None:
        yield Setting("--slot-save-path", str(server.slot_save_path.absolute()), None)
    if server.image_dir is not None:
        yield Setting("--media-path", str(server.image_dir.absolute()), None)


def with_whole_path(plan: Plan) -> Plan:
    """The plan with absolute paths, since its output is used in other folders."""
    model = replace(plan.model, path=_whole(plan.model.path))
    companions = (replace(companion, path=_whole(companion.path)) for companion in plan.companions)
    return replace(plan, model=model, companions=tuple(companions))


def _whole(path: str) -> str:
    return path if is_remote(path) else str(Path(path).absolute())
