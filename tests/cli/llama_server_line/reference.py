"""llama.cpp's own reading of llama-server's command line, on virtual devices: a process for one question.

It reads a Question as JSON from standard input and writes an Answer. The line goes straight into llama.cpp's
own parameters, as common/arg.cpp, common_model_params_to_llama and common_context_params_to_llama set them:
nothing of `vram_llm.cli`, and no planner, is between.
"""

import ctypes
import os
import re
import sys
from types import SimpleNamespace
from typing import Any

import msgspec

from vram_llm.machine.types import DeviceKind
from vram_llm.model.quants import KV_TYPES

_VALUES = {
    "-ngl": "ngl", "--n-gpu-layers": "ngl", "--gpu-layers": "ngl", "-ts": "ts", "--tensor-split": "ts",
    "-sm": "sm", "--split-mode": "sm", "-mg": "mg", "--main-gpu": "mg", "-dev": "dev", "--device": "dev",
    "-c": "c", "--ctx-size": "c", "-b": "b", "--batch-size": "b", "-ub": "ub", "--ubatch-size": "ub",
    "-np": "np", "--parallel": "np", "-ctk": "ctk", "--cache-type-k": "ctk", "-ctv": "ctv",
    "--cache-type-v": "ctv",
}  # fmt: skip
_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # LLM_FFN_EXPS_REGEX of common/common.h
_SPLIT_MODES = {"none": 0, "layer": 1}


class QuestionedDevice(msgspec.Struct):
    """A device in llama.cpp's order."""

    name: str  # llama.cpp's: CUDA0
    kind: DeviceKind
    alignment_bytes: int
    row_padding: int
    free_bytes: int


class Question(msgspec.Struct):
    """`n_rows`: rows of logits; llama-server asks for one for each slot, an engine may ask for more."""

    path: str
    words: list[str]
    devices: list[QuestionedDevice]
    n_rows: int | None = None


class Answer(msgspec.Struct):
    """Bytes by device name and "host": weights, context, compute. `tensors` are devices by tensor."""

    bytes: dict[str, tuple[int, int, int]]
    tensors: dict[str, str]


class _Override(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


def _parsed(words: list[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Values by short name, and overrides as (pattern, buffer type) in their order."""
    values: dict[str, str] = {}
    overrides: list[tuple[str, str]] = []
    for word, value in zip(words, [*words[1:], ""], strict=True):
        name = word.replace("_", "-") if word.startswith("--") else word
        if name in _VALUES:
            values[_VALUES[name]] = value
        elif name in ("-ot", "--override-tensor"):
            overrides += [(part.partition("=")[0], part.partition("=")[2]) for part in value.split(",")]
        elif name in ("-cmoe", "--cpu-moe"):
            overrides.append((_EXPERTS, "CPU"))
        elif name in ("-ncmoe", "--n-cpu-moe"):
            overrides += [(rf"blk\.{layer}{_EXPERTS}", "CPU") for layer in range(int(value))]
        elif name in ("-nkvo", "--no-kv-offload", "-kvu", "--kv-unified"):
            values[name.lstrip("-")[-3:]] = "yes"  # "kvo", "oad", "kvu", "ied"
        elif name in ("-fa", "--flash-attn"):
            values["fa"] = value if value in ("on", "off", "auto") else "on"
    return values, overrides


def answered(question: Question) -> Answer:
    """The bytes and the tensors' devices, by llama.cpp."""
    from vram_llm.llama import bindings as b
    from vram_llm.llama.dryrun import buffers
    from vram_llm.llama.dryrun.virtual_device import VirtualDevice
    from vram_llm.llama.dryrun.worker import _virtual_device_config

    b.log_errors_only()
    buffers.skip_clearing_host_buffers()
    b.C.llama_backend_init()
    values, overrides = _parsed(question.words)
    by_name: dict[str, Any] = {}
    types = SimpleNamespace(kv_type_k=values.get("ctk", "f16"), kv_type_v=values.get("ctv", "f16"))
    of = SimpleNamespace(path=question.path, context=types)
    for device in question.devices:
        config = _virtual_device_config(of, device)  # type: ignore[arg-type]  # it reads the facts that these have
        by_name[device.name] = VirtualDevice(device.name, config)
        by_name[device.name].memory_bytes = device.free_bytes
    chosen = values["dev"].split(",") if "dev" in values else list(by_name)
    kept: list[object] = []
    params = _model_params(b, values, overrides, by_name, chosen, kept)
    model = b.C.llama_model_load_from_file(os.fsencode(question.path), params)
    assert model, b.last_errors()
    return _measured(b, model, values, [(name, by_name[name]) for name in chosen], question.n_rows)


def _model_params(
    b: Any,
    values: dict[str, str],
    overrides: list[tuple[str, str]],
    by_name: dict[str, Any],
    chosen: list[str],
    kept: list[object],
) -> Any:
    """llama_model_params; `kept` gets the memory that it points at."""
    params = b.C.llama_model_default_params()
    handles = (ctypes.c_void_p * (len(chosen) + 1))(*(by_name[name].handle for name in chosen), None)
    shares = [float(share) for share in re.split("[,/]+", values["ts"])] if "ts" in values else []
    split = (ctypes.c_float * b.C.llama_max_devices())(*shares)
    params.devices, params.tensor_split = ctypes.cast(handles, ctypes.c_void_p), split
    params.n_gpu_layers = -1 if values.get("ngl", "all") in ("all", "auto") else int(values["ngl"])
    params.split_mode = _SPLIT_MODES[values.get("sm", "layer")]
    params.main_gpu = int(values.get("mg", 0))
    params.load_mode, params.no_alloc = 0, True
    params.use_extra_bufts = not b.has_amx_kernels()
    host = b.dev_buffer_type(b.dev_by_type(b.CPU_DEVICE_TYPE))
    types = {name: b.dev_buffer_type(device.handle) for name, device in by_name.items()} | {"CPU": host}
    rows = [_Override(pattern.encode(), types[name]) for pattern, name in overrides]
    if rows:
        array = (_Override * (len(rows) + 1))(*rows)
        kept.append(array)
        params.tensor_buft_overrides = ctypes.cast(array, ctypes.c_void_p)
    kept += [handles, split, rows]
    return params


def _measured(
    b: Any, model: int, values: dict[str, str], devices: list[tuple[str, Any]], n_rows: int | None
) -> Answer:
    from vram_llm.llama import memory_breakdown
    from vram_llm.llama.dryrun.reservation import reserve_graphs
    from vram_llm.planner.estimates import MemoryUse

    n_slots = int(values["np"]) if int(values.get("np", -1)) > 0 else 4
    params = b.C.llama_context_default_params()
    params.n_ctx = int(values.get("c", 0))
    params.n_batch, params.n_ubatch = int(values.get("b", 2048)), int(values.get("ub", 512))
    params.n_seq_max, params.n_outputs_max = n_slots, n_rows or n_slots
    params.type_k, params.type_v = (KV_TYPES[values.get(key, "f16")].id for key in ("ctk", "ctv"))
    params.flash_attn_type = {"on": 1, "off": 0, "auto": -1}[values.get("fa", "auto")]
    params.kv_unified = "np" not in values or bool({"kvu", "ied"} & values.keys())
    params.offload_kqv = not {"kvo", "oad"} & values.keys()
    params.swa_full, params.op_offload, params.no_perf = False, True, True
    for _, device in devices:
        device.set_query(weights=False)
    ctx = b.C.llama_init_from_model(model, params)
    assert ctx, b.last_errors()
    reserved = reserve_graphs(model, ctx, SimpleNamespace(parallel=n_slots, n_outputs=n_rows or n_slots))  # type: ignore[arg-type]  # the two counts are all that it reads
    for _, device in devices:
        device.set_query(weights=True)
    uses = memory_breakdown.memory_use(int(ctx))
    owners = {device.handle: name for name, device in devices} | {None: "host"}
    found = {owners[owner]: uses.get(owner, MemoryUse()) for owner in owners}
    return Answer(
        bytes={
            owners[owner]: (
                found[owners[owner]].weights_bytes,
                found[owners[owner]].context_bytes,
                reserved.compute_bytes.get(owner, 0),
            )
            for owner in owners
        },
        tensors=dict(_tensors(b, model, {name for name, _ in devices})),
    )


def _tensors(b: Any, model: int, names: set[str]) -> list[tuple[str, str]]:
    """Each tensor with its device, "host" for every buffer type of the computer's own."""
    from vram_llm.llama import mapped_tensors as m

    assert m._tensor_map is not None
    found = m._Vector.from_address(m._tensor_map(model))
    listed = []
    for address in range(found.begin, found.end, ctypes.sizeof(m._NamedTensor)):
        tensor = m._NamedTensor.from_address(address).tensor
        buffer = m._TensorHead.from_address(tensor).buffer
        type_name = b.buft_name(m._buffer_type(buffer)).decode() if buffer else "host"
        listed.append((m._name(tensor).decode(), type_name if type_name in names else "host"))
    return listed


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    output = os.dup(1)
    os.dup2(2, 1)  # libraries print to standard output
    os.write(output, msgspec.json.encode(answered(asked)))
