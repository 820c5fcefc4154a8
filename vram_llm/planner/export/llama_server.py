"""A plan as llama-server's flags, or as the environment variables that llama-server reads in their place.

Names, meanings and defaults: common/arg.cpp and common/common.h of the llama.cpp in llama-cpp-python 0.3.36.
llama-server reserves one row of logits for each sequence (server_output_limits in server-context.cpp). A plan
counts the same rows, so llama-server's compute buffers have the plan's sizes.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path

from vram_llm.errors import BadPlan
from vram_llm.model.location import HUB, is_remote
from vram_llm.model.pooling import Pooling
from vram_llm.planner.context import DRAFTED_TOKENS, NO_TENSOR
from vram_llm.planner.export.device_flags import (
    ExportedDevices,
    environment_variables,
    exported_devices,
    exported_threads,
)
from vram_llm.planner.export.metadata_settings import metadata_settings
from vram_llm.planner.export.processor_settings import processor_settings
from vram_llm.planner.export.rope_settings import rope_settings
from vram_llm.planner.export.setting import Setting
from vram_llm.planner.override_text import first_layers_option
from vram_llm.planner.types import Companion, CompanionKind, Context, Plan
from vram_llm.units import format_bytes

_SEVERAL_STACKS = frozenset({"t5", "t5encoder"})  # architectures with layers called enc.blk.N and dec.blk.N
_FIRST_LAYERS_VARIABLES = {
    "--cpu-moe": "LLAMA_ARG_CPU_MOE",
    "--n-cpu-moe": "LLAMA_ARG_N_CPU_MOE",
    "--n-cpu-ffn": "LLAMA_ARG_N_CPU_FFN",
}
HOST_ADDRESS, PORT = "127.0.0.1", 8080  # as `vram-llm serve`
_PROMPT_CACHE_REMARKS = (
    "--cache-ram and --ctx-checkpoints are 0 because the plan reserves no host memory for llama-server's",
    "prompt caches; raise them if the host has memory to spare.",
)
_POOLING_REMARKS = (
    "llama-server pools each micro-batch by itself: of an input with images the part after the last image,",
    "and it refuses texts longer than --ubatch-size.",
)


def settings(
    plan: Plan, exported: ExportedDevices, folder: str | None = None, address: str = HOST_ADDRESS
) -> tuple[Setting, ...]:
    """Every setting whose value is not llama-server's default, or that llama-server would choose by itself.

    `folder` is the model's folder as llama-server sees it; None: the folder in the plan. --rpc comes before
    --device, because llama-server looks up a device when it reads the flag. --port is always given: versions
    of llama-server differ in their default. Raises BadPlan if a companion is not a local file.
    """
    context, placement = plan.context, plan.placement
    names = exported.names[: len(placement.device_order)]
    placement_settings = list(_model_settings(plan.model.path, folder))
    if exported.endpoints:
        placement_settings.append(Setting("--rpc", ",".join(exported.endpoints), "LLAMA_ARG_RPC"))
    placement_settings += [
        Setting("--device", ",".join(names) or "none", "LLAMA_ARG_DEVICE"),
        Setting("--n-gpu-layers", str(placement.n_gpu_layers), "LLAMA_ARG_N_GPU_LAYERS"),
    ]
    if placement.tensor_split:
        split = ",".join(map(str, placement.tensor_split))
        placement_settings.append(Setting("--tensor-split", split, "LLAMA_ARG_TENSOR_SPLIT"))
    placement_settings += _override_settings(plan, exported)
    placement_settings += _companions_settings(plan, exported, folder)
    return (
        *placement_settings,
        Setting("--split-mode", placement.split_mode.value, "LLAMA_ARG_SPLIT_MODE"),
        Setting("--fit", "off", "LLAMA_ARG_FIT"),
        Setting("--load-mode", _load_mode(context), "LLAMA_ARG_LOAD_MODE"),
        *_host_weights_settings(plan),
        Setting("--ctx-size", str(context.n_ctx), "LLAMA_ARG_CTX_SIZE"),
        Setting("--parallel", str(context.parallel), "LLAMA_ARG_N_PARALLEL"),
        Setting("--kv-unified", None, "LLAMA_ARG_KV_UNIFIED")
        if context.kv_unified
        else Setting("--no-kv-unified", None, "LLAMA_ARG_KV_UNIFIED", "false"),
        *((Setting("--swa-full", None, "LLAMA_ARG_SWA_FULL"),) if context.swa_full else ()),
        *rope_settings(context.rope),
        *metadata_settings(plan.model.kv_overrides),
        *(() if context.kv_offload else (Setting("--no-kv-offload", None, "LLAMA_ARG_KV_OFFLOAD", "false"),)),
        Setting("--cache-type-k", context.kv_type_k, "LLAMA_ARG_CACHE_TYPE_K"),
        Setting("--cache-type-v", context.kv_type_v, "LLAMA_ARG_CACHE_TYPE_V"),
        Setting("--flash-attn", context.flash_attn.value, "LLAMA_ARG_FLASH_ATTN"),
        Setting("--batch-size", str(context.n_batch), "LLAMA_ARG_BATCH"),
        Setting("--ubatch-size", str(context.n_ubatch), "LLAMA_ARG_UBATCH"),
        *_mtp_settings(context),
        *_thread_settings(plan),
        *processor_settings(context.processor),
        *_embedding_settings(context),
        *(
            (Setting("--backend-sampling", None, "LLAMA_ARG_BACKEND_SAMPLING"),)
            if context.backend_sampling
            else ()
        ),
        Setting("--cache-ram", "0", "LLAMA_ARG_CACHE_RAM"),
        Setting("--ctx-checkpoints", "0", "LLAMA_ARG_CTX_CHECKPOINTS"),
        *(() if context.op_offload else (Setting("--no-op-offload", None, None),)),
        Setting("--host", address, "LLAMA_ARG_HOST"),
        Setting("--port", str(PORT), "LLAMA_ARG_PORT"),
    )


def _host_weights_settings(plan: Plan) -> tuple[Setting, ...]:
    no_repack = Setting("--no-repack", None, "LLAMA_ARG_REPACK", "false")
    # repacked weights of a mapped file would be in memory
    keeps_form = not plan.context.repack or plan.disk_reads is not None
    no_host = (Setting("--no-host", None, "LLAMA_ARG_NO_HOST"),) if plan.context.no_host else ()
    return (no_repack, *no_host) if keeps_form else no_host


def _load_mode(context: Context) -> str:
    if context.mlock:
        return "mmap+mlock" if context.use_mmap else "mlock"
    return "auto" if context.use_mmap else "none"


def _override_settings(plan: Plan, exported: ExportedDevices) -> tuple[Setting, ...]:
    """The placement's overrides.

    A placement without overrides gets one that matches no tensor if llama.cpp shall make no pipeline copies:
    any override prevents them.
    """
    placement = plan.placement
    if not placement.overrides:
        no_copies = not plan.context.pipeline_copies and len(placement.device_order) > 1
        return (_override_tensor(f"{NO_TENSOR}=CPU"),) if no_copies else ()
    if (first_layers := _first_layers_setting(plan)) is not None:
        return (first_layers,)
    texts = (
        f"{override.pattern}={exported.buffer_type_of(override.device)}" for override in placement.overrides
    )
    return (_override_tensor(",".join(texts)),)


def _override_tensor(value: str) -> Setting:
    return Setting("--override-tensor", value, "LLAMA_ARG_OVERRIDE_TENSOR")


def _first_layers_setting(plan: Plan) -> Setting | None:
    """--cpu-moe, --n-cpu-moe or --n-cpu-ffn in place of the plan's only override.

    None if no such option moves exactly the override's tensors. The options' patterns (llm_ffn_block_regex of
    common/common.h) match anywhere in a name, so "blk.0" also matches in "enc.blk.0".
    """
    option = first_layers_option(plan.placement.overrides[0])
    if option is None or len(plan.placement.overrides) > 1 or plan.model.architecture in _SEVERAL_STACKS:
        return None
    flag, value = option[0], option[1] if len(option) > 1 else None
    return Setting(flag, value, _FIRST_LAYERS_VARIABLES[flag])


def _thread_settings(plan: Plan) -> tuple[Setting, ...]:
    n_threads, n_threads_batch = exported_threads(plan), plan.context.n_threads_batch
    return (
        *(() if n_threads is None else (Setting("--threads", str(n_threads), "LLAMA_ARG_THREADS"),)),
        *(() if n_threads_batch is None else (Setting("--threads-batch", str(n_threads_batch), None),)),
    )


def _mtp_settings(context: Context) -> tuple[Setting, ...]:
    if not context.n_mtp:
        return ()
    n_drafted = min(context.n_mtp, DRAFTED_TOKENS)  # of each sequence, as rows of logits are planned
    return (
        Setting("--spec-type", "draft-mtp", "LLAMA_ARG_SPEC_TYPE"),
        Setting("--spec-draft-n-max", str(n_drafted), "LLAMA_ARG_SPEC_DRAFT_N_MAX"),
    )


def _embedding_settings(context: Context) -> tuple[Setting, ...]:
    if context.pooling is None:
        return ()
    if context.pooling is Pooling.RANK:
        return (Setting("--reranking", None, "LLAMA_ARG_RERANKING"),)
    return (
        Setting("--embeddings", None, "LLAMA_ARG_EMBEDDINGS"),
        Setting("--pooling", context.pooling.value, "LLAMA_ARG_POOLING"),
    )


def _companions_settings(plan: Plan, exported: ExportedDevices, folder: str | None) -> list[Setting]:
    found = [each for own in plan.companions for each in _companion_settings(own, exported, folder)]
    layer_range = next((each.layer_range for each in plan.companions if each.layer_range is not None), None)
    if layer_range is not None:
        first, last = map(str, layer_range)
        found.append(Setting("--control-vector-layer-range", first, None, second_value=last))
    return found


def _companion_settings(
    companion: Companion, exported: ExportedDevices, folder: str | None
) -> tuple[Setting, ...]:
    path = _local_path(companion.path, folder)
    name = exported.name_of(companion.device)
    match companion.kind:
        case CompanionKind.LORA if companion.scale == 1:
            return (Setting("--lora", path, None),)
        case CompanionKind.LORA:
            return (Setting("--lora-scaled", f"{path}:{companion.scale:g}", None),)
        case CompanionKind.CONTROL_VECTOR:
            return (Setting("--control-vector-scaled", f"{path}:{companion.scale!r}", None),)
        case CompanionKind.MMPROJ:
            return (
                Setting("--mmproj", path, "LLAMA_ARG_MMPROJ"),
                Setting("--mmproj-device", name, "MTMD_BACKEND_DEVICE"),
            )
        case CompanionKind.DRAFT:
            return (
                Setting("--model-draft", path, "LLAMA_ARG_SPEC_DRAFT_MODEL"),
                Setting("--spec-draft-device", name, None),
                Setting("--spec-draft-ngl", "all" if name != "none" else "0", "LLAMA_ARG_N_GPU_LAYERS_DRAFT"),
                Setting("--spec-type", "draft-simple", "LLAMA_ARG_SPEC_TYPE"),
                Setting("--spec-draft-n-max", str(DRAFTED_TOKENS), "LLAMA_ARG_SPEC_DRAFT_N_MAX"),
            )
    raise ValueError(f"no flags for {companion.kind}")


def _local_path(path: str, folder: str | None) -> str:
    """The path of a local file, moved to `folder` if that is not None. Raises BadPlan for a remote file."""
    if is_remote(path):
        raise BadPlan(f"{path} must be a local file for this format: fetch it, and plan with its path")
    return path if folder is None else f"{folder}/{Path(path).name}"


def _disk_remarks(plan: Plan) -> tuple[str, ...]:
    """How llama-server differs from a plan that reads from the disk."""
    reads = plan.disk_reads
    if reads is None:
        return ()
    return (
        "llama-server keeps no part of the weights in memory, so each token reads all that it needs from the",
        f"disk, {format_bytes(reads.cyclic_bytes)}; the plan is for `vram-llm serve`, which reads "
        f"{format_bytes(reads.token_bytes)}.",
    )


def remarks(plan: Plan, exported: ExportedDevices) -> tuple[str, ...]:
    """Lines for the user: the model's name, what to fill in, and how llama-server differs from the plan."""
    context = plan.context
    fewer_rows: tuple[str, ...] = ()
    has_draft = context.n_mtp or any(each.kind is CompanionKind.DRAFT for each in plan.companions)
    n_rows = context.parallel * (1 + DRAFTED_TOKENS if has_draft else 1)
    if context.n_outputs > n_rows:
        fewer_rows = (
            f"llama-server asks for {n_rows} rows of logits; the plan has room for {context.n_outputs}, so",
            "compute on the output's device is smaller than planned.",
        )
    return (
        f"{plan.model.name} {plan.model.quantization}, as planned",
        *exported.remarks,
        *fewer_rows,
        *(_POOLING_REMARKS if context.pools_in_engine and context.pooling is not Pooling.LAST else ()),
        *_disk_remarks(plan),
        *_PROMPT_CACHE_REMARKS,
    )


def as_comments(lines: Iterable[str]) -> list[str]:
    """Each line as a comment; unprintable characters become spaces, so that no name can end its comment."""
    return [
        "# " + "".join(character if character.isprintable() else " " for character in line) for line in lines
    ]


def command_line(plan: Plan) -> str:
    """A quoted shell command that starts llama-server, below comments.

    Raises BadPlan if a companion is not a local file, or if the placement names a device that the plan does
    not list.
    """
    exported = exported_devices(plan)
    assignments = " ".join(
        f"{name}={shlex.quote(value)}" for name, value in environment_variables(plan, exported)
    )
    lines = [f"{assignments} \\"] if assignments else []
    lines.append("llama-server \\")
    lines += [f"    {shlex.join(setting.arguments)} \\" for setting in settings(plan, exported)]
    lines[-1] = lines[-1].removesuffix(" \\")
    return "\n".join([*as_comments(remarks(plan, exported)), *lines])


def export_lines(plan: Plan) -> str:
    """Shell `export` lines below comments; the last comment lists the flags that have no variable.

    Raises BadPlan as `command_line` does.
    """
    exported = exported_devices(plan)
    all_settings = settings(plan, exported)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment_variables(plan, exported)]
    lines += [
        f"export {setting.variable}={shlex.quote(setting.variable_value)}"
        for setting in all_settings
        if setting.variable is not None
    ]
    flags = " ".join(shlex.join(setting.arguments) for setting in all_settings if setting.variable is None)
    flags_remark = f"These flags have no variable; start it with: llama-server {flags}"
    return "\n".join([*as_comments((*remarks(plan, exported), flags_remark)), *lines])


def _model_settings(path: str, folder: str | None) -> tuple[Setting, ...]:
    if not is_remote(path):
        return (Setting("--model", _local_path(path, folder), "LLAMA_ARG_MODEL"),)
    if not path.lower().startswith(HUB):
        return (Setting("--model-url", path, "LLAMA_ARG_MODEL_URL"),)
    organisation, repository, file = path[len(HUB) :].split("/", 2)
    name, at, revision = repository.partition("@")
    repo = f"{organisation}/{name}"
    if at:
        url = f"https://huggingface.co/{repo}/resolve/{revision}/{file}"
        return (Setting("--model-url", url, "LLAMA_ARG_MODEL_URL"),)
    return (
        Setting("--hf-repo", repo, "LLAMA_ARG_HF_REPO"),
        Setting("--hf-file", file, "LLAMA_ARG_HF_FILE"),
        # llama-server would download and load an image model's projector, which the plan has not counted
        Setting("--no-mmproj", None, "LLAMA_ARG_MMPROJ_AUTO", "false"),
    )
