"""A plan as llama-server's flags, or as the environment variables that llama-server reads instead of them.

Names, meanings and defaults: common/arg.cpp and common/common.h of the llama.cpp in llama-cpp-python 0.3.36.
llama-server asks for one row of logits per sequence (server_output_limits in server-context.cpp). A plan
counts the same, so llama-server's compute buffers are the plan's.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vram_llm.errors import BadPlan
from vram_llm.model.location import HUB, is_remote
from vram_llm.model.pooling import Pooling
from vram_llm.planner.context import DRAFTED_TOKENS, NO_TENSOR
from vram_llm.planner.export.device_flags import Reach, reach, threads, variables
from vram_llm.planner.override_text import first_layers_option
from vram_llm.planner.types import Companion, CompanionKind, Context, Plan

_SEVERAL_STACKS = frozenset({"t5", "t5encoder"})  # architectures with layers called enc.blk.N and dec.blk.N
_VARIABLES = {
    "--cpu-moe": "LLAMA_ARG_CPU_MOE",
    "--n-cpu-moe": "LLAMA_ARG_N_CPU_MOE",
    "--n-cpu-ffn": "LLAMA_ARG_N_CPU_FFN",
}
HOST_ADDRESS, PORT = "127.0.0.1", 8080  # as `vram-llm serve`
_HOST_CACHES = (
    "--cache-ram and --ctx-checkpoints are 0 because the plan reserves no host memory for llama-server's",
    "prompt caches; raise them if the host has memory to spare.",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One of llama-server's settings. `value` None: a switch. `variable` None: only a flag sets it."""

    flag: str
    value: str | None
    variable: str | None
    switched: str = "true"  # what the variable of a switch is set to

    @property
    def words(self) -> tuple[str, ...]:
        """The setting as arguments."""
        return (self.flag,) if self.value is None else (self.flag, self.value)


def settings(
    plan: Plan, where: Reach, folder: str | None = None, address: str = HOST_ADDRESS
) -> tuple[Setting, ...]:
    """Every setting that differs from llama-server's default, or that llama-server would choose itself.

    `folder` is the path of the model's folder for llama-server; None: the path in the plan. RPC workers come
    before the devices, because llama-server looks up a device when it reads the flag. The port is always
    given: versions of llama-server differ in their default.
    """
    context, placement = plan.context, plan.placement
    names = where.names[: len(placement.device_order)]
    placing = list(_model(plan.model.path, folder))
    if where.endpoints:
        placing.append(Setting("--rpc", ",".join(where.endpoints), "LLAMA_ARG_RPC"))
    placing.append(Setting("--device", ",".join(names) or "none", "LLAMA_ARG_DEVICE"))
    placing.append(Setting("--n-gpu-layers", str(placement.n_gpu_layers), "LLAMA_ARG_N_GPU_LAYERS"))
    if placement.tensor_split:
        split = ",".join(map(str, placement.tensor_split))
        placing.append(Setting("--tensor-split", split, "LLAMA_ARG_TENSOR_SPLIT"))
    placing += _overrides(plan, where)
    placing += [setting for companion in plan.companions for setting in _companion(companion, where, folder)]
    return (
        *placing,
        Setting("--split-mode", "layer", "LLAMA_ARG_SPLIT_MODE"),
        Setting("--fit", "off", "LLAMA_ARG_FIT"),
        Setting("--load-mode", "auto" if context.use_mmap else "none", "LLAMA_ARG_LOAD_MODE"),
        Setting("--ctx-size", str(context.n_ctx), "LLAMA_ARG_CTX_SIZE"),
        Setting("--parallel", str(context.parallel), "LLAMA_ARG_N_PARALLEL"),
        Setting("--kv-unified", None, "LLAMA_ARG_KV_UNIFIED")
        if context.kv_unified
        else Setting("--no-kv-unified", None, "LLAMA_ARG_KV_UNIFIED", "false"),
        *((Setting("--swa-full", None, "LLAMA_ARG_SWA_FULL"),) if context.swa_full else ()),
        *(() if context.kv_offload else (Setting("--no-kv-offload", None, "LLAMA_ARG_KV_OFFLOAD", "false"),)),
        Setting("--cache-type-k", context.kv_type_k, "LLAMA_ARG_CACHE_TYPE_K"),
        Setting("--cache-type-v", context.kv_type_v, "LLAMA_ARG_CACHE_TYPE_V"),
        Setting("--flash-attn", context.flash_attn.value, "LLAMA_ARG_FLASH_ATTN"),
        Setting("--batch-size", str(context.n_batch), "LLAMA_ARG_BATCH"),
        Setting("--ubatch-size", str(context.n_ubatch), "LLAMA_ARG_UBATCH"),
        *_threads(plan),
        *_embedding(context),
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


def _overrides(plan: Plan, where: Reach) -> tuple[Setting, ...]:
    """The placement's overrides; without any, one that only keeps llama.cpp from pipeline copies."""
    placement = plan.placement
    if not placement.overrides:
        no_copies = not plan.context.pipeline_copies and len(placement.device_order) > 1
        return (_override_tensor(f"{NO_TENSOR}=CPU"),) if no_copies else ()
    if (short := _first_layers(plan)) is not None:
        return (short,)
    texts = (f"{each.pattern}={where.buffer_type_of(each.device)}" for each in placement.overrides)
    return (_override_tensor(",".join(texts)),)


def _override_tensor(value: str) -> Setting:
    return Setting("--override-tensor", value, "LLAMA_ARG_OVERRIDE_TENSOR")


def _first_layers(plan: Plan) -> Setting | None:
    """llama-server's own option for the plan's only override; None if it would move other tensors.

    Its patterns (llm_ffn_block_regex of common/common.h) begin anywhere in a name, as in "enc.blk.0".
    """
    option = first_layers_option(plan.placement.overrides[0])
    if option is None or len(plan.placement.overrides) > 1 or plan.model.architecture in _SEVERAL_STACKS:
        return None
    flag, value = option[0], option[1] if len(option) > 1 else None
    return Setting(flag, value, _VARIABLES[flag])


def _threads(plan: Plan) -> tuple[Setting, ...]:
    own, batch = threads(plan), plan.context.n_threads_batch
    return (
        *(() if own is None else (Setting("--threads", str(own), "LLAMA_ARG_THREADS"),)),
        *(() if batch is None else (Setting("--threads-batch", str(batch), None),)),
    )


def _embedding(context: Context) -> tuple[Setting, ...]:
    if context.pooling is None:
        return ()
    if context.pooling is Pooling.RANK:
        return (Setting("--reranking", None, "LLAMA_ARG_RERANKING"),)
    return (
        Setting("--embeddings", None, "LLAMA_ARG_EMBEDDINGS"),
        Setting("--pooling", context.pooling.value, "LLAMA_ARG_POOLING"),
    )


def _companion(companion: Companion, where: Reach, folder: str | None) -> tuple[Setting, ...]:
    path = _seen(companion.path, folder)
    name = where.name_of(companion.device)
    match companion.kind:
        case CompanionKind.LORA if companion.scale == 1:
            return (Setting("--lora", path, None),)
        case CompanionKind.LORA:
            return (Setting("--lora-scaled", f"{path}:{companion.scale:g}", None),)
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


def _seen(path: str, folder: str | None) -> str:
    """A local file's path with `folder` as its folder. Raises BadPlan for a remote file."""
    if is_remote(path):
        raise BadPlan(f"{path} must be a local file for this format: fetch it, and plan with its path")
    return path if folder is None else f"{folder}/{Path(path).name}"


def remarks(plan: Plan, where: Reach) -> tuple[str, ...]:
    """Remarks for the reader, one per line."""
    context = plan.context
    fewer: tuple[str, ...] = ()
    has_draft = any(companion.kind is CompanionKind.DRAFT for companion in plan.companions)
    n_rows = context.parallel * (1 + DRAFTED_TOKENS if has_draft else 1)
    if context.n_outputs > n_rows:
        fewer = (
            f"llama-server asks for {n_rows} rows of logits; the plan has room for {context.n_outputs}, so",
            "compute on the output's device is smaller than planned.",
        )
    return (f"{plan.model.name} {plan.model.quantization}, as planned", *where.remarks, *fewer, *_HOST_CACHES)


def as_comments(lines: Iterable[str]) -> list[str]:
    """Each remark as a comment of one line; names from model files must not end the comment."""
    return [
        "# " + "".join(character if character.isprintable() else " " for character in remark)
        for remark in lines
    ]


def command_line(plan: Plan) -> str:
    """A quoted shell command with remarks above it. Raises BadPlan."""
    where = reach(plan)
    assigned = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables(plan, where))
    head = [f"{assigned} \\"] if assigned else []
    lines = [*head, "llama-server \\"]
    lines += [f"    {shlex.join(setting.words)} \\" for setting in settings(plan, where)]
    lines[-1] = lines[-1].removesuffix(" \\")
    return "\n".join([*as_comments(remarks(plan, where)), *lines])


def exports(plan: Plan) -> str:
    """Shell `export` lines; a remark lists the flags without a variable. Raises BadPlan."""
    where = reach(plan)
    all_settings = settings(plan, where)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables(plan, where)]
    lines += [
        f"export {s.variable}={shlex.quote(s.switched if s.value is None else s.value)}"
        for s in all_settings
        if s.variable is not None
    ]
    flags = " ".join(shlex.join(setting.words) for setting in all_settings if setting.variable is None)
    comments = (*remarks(plan, where), f"These flags have no variable; start it with: llama-server {flags}")
    return "\n".join([*as_comments(comments), *lines])


def _model(path: str, folder: str | None) -> tuple[Setting, ...]:
    if not is_remote(path):
        place = path if folder is None else f"{folder}/{Path(path).name}"
        return (Setting("--model", place, "LLAMA_ARG_MODEL"),)
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
