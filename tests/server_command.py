"""A llama-server command read by llama-server's own rules, and llama.cpp's dry run of what it says.

The rules are those of common/arg.cpp, common/common.cpp (common_model_params_to_llama,
common_context_params_to_llama) and server_output_limits of tools/server/server-context.cpp, of
llama-cpp-python 0.3.36. Nothing here uses the exporter, nor the parameters that the engine makes of a plan.
"""

import ctypes
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vram_llm.llama import bindings as b
from vram_llm.llama import memory_breakdown
from vram_llm.llama.dryrun import reservation, worker
from vram_llm.llama.dryrun.virtual_device import VirtualDevice
from vram_llm.llama.dryrun.wire import DryRunReply, DryRunRequest
from vram_llm.machine.types import Device
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.types import Context, Placement

_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # LLM_FFN_EXPS_REGEX of common/common.h
_DENSE = r"\.ffn_(up|down|gate)\."  # LLM_FFN_DENSE_REGEX
_FLASH = {"on": 1, "off": 0, "auto": -1}  # llama_flash_attn_type
_SWITCHES = frozenset({
    "--kv-unified", "--no-kv-unified", "--swa-full", "--no-kv-offload", "--no-op-offload", "--cpu-moe",
})  # fmt: skip
_OF_THE_SERVER = frozenset({"--model", "--threads", "--threads-batch", "--cache-ram", "--ctx-checkpoints",
                            "--host", "--port"})  # fmt: skip


@dataclass
class ServerCommand:
    """llama-server's common_params, as far as a plan sets them. Devices and buffers have ggml's names."""

    environment: dict[str, str] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    n_gpu_layers: int = -1
    tensor_split: list[float] = field(default_factory=list)
    overrides: list[tuple[str, str]] = field(default_factory=list)  # patterns and buffer types
    split_mode: str = "layer"
    fit: str = "on"
    load_mode: str = "auto"
    n_ctx: int = 0
    n_parallel: int = -1
    n_batch: int = 2048
    n_ubatch: int = 512
    kv_unified: bool = False
    swa_full: bool = False
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attn: str = "auto"
    no_kv_offload: bool = False
    no_op_offload: bool = False


def parse(text: str) -> ServerCommand:
    """Read a shell command. Raises ValueError for a flag that is not known here."""
    words = shlex.split(text.replace("\\\n", " "), comments=True)
    at = words.index("llama-server")
    found = ServerCommand(environment=dict(word.split("=", 1) for word in words[:at]))
    rest = iter(words[at + 1 :])
    for flag in rest:
        _take(found, flag, "" if flag in _SWITCHES else next(rest))
    return found


def _take(found: ServerCommand, flag: str, value: str) -> None:
    match flag:
        case "--device":
            found.devices = [] if value == "none" else value.split(",")
        case "--n-gpu-layers":
            found.n_gpu_layers = int(value)
        case "--tensor-split":
            found.tensor_split = [float(share) for share in re.split(r"[,/]+", value)]
        case "--override-tensor":
            for piece in value.split(","):
                pattern, buffer_type = piece[: piece.index("=")], piece[piece.index("=") + 1 :]
                found.overrides.append((pattern, buffer_type))
        case "--cpu-moe":
            found.overrides.append((_EXPERTS, "CPU"))
        case "--n-cpu-moe":
            found.overrides += [(rf"blk\.{i}{_EXPERTS}", "CPU") for i in range(int(value))]
        case "--n-cpu-ffn":
            found.overrides += [(rf"blk\.{i}{_DENSE}", "CPU") for i in range(int(value))]
        case "--split-mode" | "--fit" | "--load-mode" | "--flash-attn" | "--cache-type-k" | "--cache-type-v":
            setattr(found, flag.strip("-").replace("-", "_"), value)
        case "--ctx-size":
            found.n_ctx = int(value)
        case "--parallel":
            found.n_parallel = int(value)
        case "--batch-size":
            found.n_batch = int(value)
        case "--ubatch-size":
            found.n_ubatch = int(value)
        case "--kv-unified" | "--no-kv-unified":
            found.kv_unified = flag == "--kv-unified"
        case "--swa-full":
            found.swa_full = True
        case "--no-kv-offload":
            found.no_kv_offload = True
        case "--no-op-offload":
            found.no_op_offload = True
        case _ if flag not in _OF_THE_SERVER:
            raise ValueError(f"{flag} is not known here")


class _BufferTypeOverride(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


def dry_run(command: ServerCommand, path: Path, cards: Sequence[Device]) -> DryRunReply:
    """llama.cpp's dry run of a header on virtual devices for `cards`, which have UUIDs.

    The devices of the reply are those of the command, in its order.
    """
    assert (command.split_mode, command.fit) == ("layer", "off")
    by_uuid = {card.uuid: card for card in cards}
    visible = [
        by_uuid[uuid] for uuid in command.environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if uuid
    ]
    by_name = {f"CUDA{i}": card for i, card in enumerate(visible)}
    used = [by_name[name] for name in command.devices]
    virtual = _virtual(command, path, used)
    buffer_types = {
        name: b.dev_buffer_type(made.handle) for name, made in zip(command.devices, virtual, strict=True)
    }
    buffer_types["CPU"] = b.dev_buffer_type(b.dev_by_type(b.CPU_DEVICE_TYPE))
    kept: list[object] = []
    params = _model_params(command, [made.handle for made in virtual], buffer_types, kept)
    b.forget_lines()
    model = b.C.llama_model_load_from_file(os.fsencode(path), params)
    assert model, b.last_errors()
    try:
        return _measure_context(command, model, virtual)
    finally:
        b.C.llama_model_free(model)


def _virtual(command: ServerCommand, path: Path, used: Sequence[Device]) -> list[VirtualDevice]:
    """Virtual devices like those of the dry run: the kind, alignment and padding of each card."""
    request = DryRunRequest(str(path), _cache_types(command), _PLACEMENT, list(used))
    return worker.virtual_devices(request)


_PLACEMENT = Placement(
    device_order=(), layers_per_device=(), output_device="host", cpu_layers=0, tensor_split=(), n_gpu_layers=0
)


def _cache_types(command: ServerCommand) -> Context:
    return Context(
        n_ctx=command.n_ctx, parallel=1, kv_type_k=command.cache_type_k, kv_type_v=command.cache_type_v,
        n_batch=1, n_ubatch=1, n_threads=1, use_mmap=False, pipeline_copies=True,
    )  # fmt: skip


def _model_params(
    command: ServerCommand, handles: Sequence[int], buffer_types: Mapping[str, int], kept: list[object]
) -> Any:
    """common_model_params_to_llama; `kept` must live until the model is loaded."""
    params = b.C.llama_model_default_params()
    devices = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)
    split = (ctypes.c_float * b.C.llama_max_devices())(*command.tensor_split)
    params.devices, params.tensor_split = ctypes.cast(devices, ctypes.c_void_p), split
    params.n_gpu_layers = command.n_gpu_layers
    params.load_mode, params.no_alloc = 0, True  # a dry run maps nothing, whatever the command says
    params.use_extra_bufts = not b.has_amx_kernels()
    kept += [devices, split]
    if command.overrides:
        pairs = [(pattern.encode(), buffer_types[name]) for pattern, name in command.overrides]
        overrides = (_BufferTypeOverride * (len(pairs) + 1))(*(_BufferTypeOverride(*pair) for pair in pairs))
        params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        kept.append(overrides)
    return params


def _measure_context(command: ServerCommand, model: int, virtual: Sequence[VirtualDevice]) -> DryRunReply:
    """common_context_params_to_llama, and the bytes of that context."""
    for made in virtual:
        made.set_query(weights=False)
    params = b.C.llama_context_default_params()
    params.n_ctx, params.n_seq_max = command.n_ctx, command.n_parallel
    params.n_batch, params.n_ubatch = command.n_batch, command.n_ubatch
    params.n_outputs_max, params.n_outputs_max_per_seq = command.n_parallel, 1
    params.type_k = KV_TYPES[command.cache_type_k].id
    params.type_v = KV_TYPES[command.cache_type_v].id
    params.flash_attn_type = _FLASH[command.flash_attn]
    params.kv_unified, params.swa_full = command.kv_unified, command.swa_full
    params.offload_kqv, params.op_offload = not command.no_kv_offload, not command.no_op_offload
    ctx = b.C.llama_init_from_model(model, params)
    assert ctx, b.last_errors()
    context = Context(
        n_ctx=command.n_ctx, parallel=command.n_parallel, kv_type_k=command.cache_type_k,
        kv_type_v=command.cache_type_v, n_batch=command.n_batch, n_ubatch=command.n_ubatch, n_threads=1,
        use_mmap=False, pipeline_copies=True,
    )  # fmt: skip
    reserved = reservation.reserve_graphs(model, ctx, context)
    for made in virtual:
        made.set_query(weights=True)
    uses = memory_breakdown.memory_use(int(ctx))
    b.C.llama_free(ctx)
    owners = [*(made.handle for made in virtual), None]
    found = [
        MemoryUse(use.weights_bytes, use.context_bytes, reserved.compute_bytes[owner])
        for owner in owners
        for use in (uses.get(owner, MemoryUse()),)
    ]
    return DryRunReply(
        devices=found[:-1],
        host=found[-1],
        graph_splits=reserved.decode_splits,
        prompt_graph_splits=reserved.prompt_splits,
    )
