"""A plan as a Python script for llama-cpp-python.

Its class `Llama` takes neither devices nor workers, and serves one sequence. The script uses the class if
every layer is on the host or on CUDA cards of this computer: environment variables set their order. Other
scripts use llama.cpp's C interface, which can express every plan.
"""

from pathlib import Path

from vram_llm.errors import BadPlan
from vram_llm.machine.types import DeviceKind
from vram_llm.model.location import RemoteFile, is_remote
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.context import NO_TENSOR
from vram_llm.planner.export.device_flags import ExportedDevices, exported_devices, exported_threads
from vram_llm.planner.export.llama_server import as_comments
from vram_llm.planner.export.metadata_settings import metadata_lines
from vram_llm.planner.processor_use import AS_USUAL
from vram_llm.planner.rope import AS_IN_FILE, Rope
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import HOST, CompanionKind, Context, FlashAttention, Plan

_CLASS_SCRIPT = """\
{remarks}
{environment}from llama_cpp import Llama

llm = Llama(
    {model!r},
    n_gpu_layers={n_gpu_layers},
    tensor_split={tensor_split},
    n_ctx={n_ctx},
    n_batch={n_batch},
    n_ubatch={n_ubatch},
    n_threads={n_threads},
    n_threads_batch={n_threads_batch},
    type_k={type_k},  # {kv_type_k}
    type_v={type_v},  # {kv_type_v}
    flash_attn={flash_attn},
    use_mmap={use_mmap},
    swa_full={swa_full},
    op_offload={op_offload},
    offload_kqv={kv_offload},
    verbose=False,
)
print(llm("Once upon a time", max_tokens=32)["choices"][0]["text"])
"""

_C_INTERFACE_SCRIPT = """\
{remarks}
import ctypes

{environment}from llama_cpp import llama_cpp as C


def ggml(name, *arguments):
    function = getattr(C._lib, name)
    function.restype, function.argtypes = ctypes.c_void_p, arguments
    return function


add_server = ggml("ggml_backend_rpc_add_server", ctypes.c_char_p)
register = ggml("ggml_backend_register", ctypes.c_void_p)
find = ggml("ggml_backend_dev_by_name", ctypes.c_char_p)

C.llama_backend_init()
for endpoint in {endpoints}:
    register(add_server(endpoint.encode()))
names = {names}
devices = (ctypes.c_void_p * (len(names) + 1))(*[find(name.encode()) for name in names], None)
assert all(devices[: len(names)]), "a device of the plan is not here"
split = (ctypes.c_float * C.llama_max_devices())(*{tensor_split})

params = C.llama_model_default_params()
params.devices = ctypes.cast(devices, ctypes.c_void_p)
params.n_gpu_layers = {n_gpu_layers}
params.tensor_split = split
params.split_mode = C.LLAMA_SPLIT_MODE_{split_mode}
params.load_mode = C.{load_mode}
{host_weights}{overrides}{kv_overrides}model = C.llama_model_load_from_file({model!r}.encode(), params)
assert model, "llama.cpp would not load the model"

params = C.llama_context_default_params()
params.n_ctx = {n_ctx}
params.n_batch = {n_batch}
params.n_ubatch = {n_ubatch}
params.n_seq_max = {parallel}
params.n_outputs_max = {n_outputs}
params.n_threads, params.n_threads_batch = {n_threads}, {n_threads_batch}
params.type_k = {type_k}  # {kv_type_k}
params.type_v = {type_v}  # {kv_type_v}
params.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_{flash_attn_type}
params.kv_unified = {kv_unified}
params.swa_full = {swa_full}
params.op_offload, params.offload_kqv = {op_offload}, {kv_offload}
{rope}ctx = C.llama_init_from_model(model, params)
assert ctx, "llama.cpp would not make the context"
{adapters}
vocab = C.llama_model_get_vocab(model)
text = b"Once upon a time"
tokens = (C.llama_token * 64)()
n_tokens = C.llama_tokenize(vocab, text, len(text), tokens, len(tokens), True, True)
piece = ctypes.create_string_buffer(256)
for _ in range(32):
    if C.llama_decode(ctx, C.llama_batch_get_one(tokens, n_tokens)) != 0:
        break
    logits = C.llama_get_logits_ith(ctx, -1)
    best = max(range(C.llama_vocab_n_tokens(vocab)), key=lambda token: logits[token])
    if C.llama_vocab_is_eog(vocab, best):
        break
    n = C.llama_token_to_piece(vocab, best, piece, len(piece), 0, False)
    print(piece.raw[:n].decode("utf-8", "replace"), end="", flush=True)
    tokens[0], n_tokens = best, 1
print()
"""

_ALL_CORES = "os.cpu_count()"  # of the computer that runs the script

_FLASH_ATTENTION = {
    FlashAttention.AUTO: "AUTO",
    FlashAttention.ON: "ENABLED",
    FlashAttention.OFF: "DISABLED",
}

_ADAPTER_LINES = """\
adapters = {adapters}
loaded = [C.llama_adapter_lora_init(model, path.encode()) for path, _ in adapters]
assert all(loaded), "llama.cpp would not load an adapter"
handles = (ctypes.c_void_p * len(loaded))(*(ctypes.cast(adapter, ctypes.c_void_p) for adapter in loaded))
scales = (ctypes.c_float * len(loaded))(*(scale for _, scale in adapters))
apply = C._lib.llama_set_adapters_lora
apply.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
apply(ctx, handles, len(loaded), scales)
"""

_OVERRIDE_LINES = """\
class Override(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


buffer_type = ggml("ggml_backend_dev_buffer_type", ctypes.c_void_p)
moved = {overrides}
overrides = (Override * {n_slots})(*[(pattern, buffer_type(find(name))) for pattern, name in moved])
params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
"""


def script(plan: Plan) -> str:
    """The text of the script.

    Raises BadPlan if the plan is for embeddings, reads from the disk, or has companions other than LoRA
    adapters, or if its placement names a device that it does not list.
    """
    _check(plan)
    exported, context = exported_devices(plan), plan.context
    overrides = _overrides(plan, exported)
    adapters = [(companion.path, companion.scale) for companion in plan.companions]
    only_cuda = {device.kind for device in exported.devices} <= {DeviceKind.CUDA}
    uses_class = only_cuda and context.kv_unified and not overrides and not adapters
    uses_class &= not context.mlock and context.repack and not context.no_host
    uses_class &= context.rope == AS_IN_FILE and not plan.model.kv_overrides
    uses_class &= plan.placement.split_mode is SplitMode.LAYER
    n_threads = exported_threads(plan) or _ALL_CORES
    no_cards = (("CUDA_VISIBLE_DEVICES", ""),)  # `Llama` would use every card that it sees
    variables = exported.cuda_variables or (no_cards if uses_class else ())
    return (
        (_CLASS_SCRIPT if uses_class else _C_INTERFACE_SCRIPT)
        .format(
            remarks="\n".join(as_comments(_remarks(plan, exported, uses_class=uses_class))),
            environment=_environment_lines(variables, n_threads),
            model=_model_path(plan),
            endpoints=list(exported.endpoints),
            names=list(exported.names),
            overrides=_OVERRIDE_LINES.format(overrides=overrides, n_slots=len(overrides) + 1)
            if overrides
            else "",
            op_offload=context.op_offload,
            kv_offload=context.kv_offload,
            rope=_rope_lines(context.rope),
            kv_overrides=metadata_lines(plan.model.kv_overrides),
            adapters=_ADAPTER_LINES.format(adapters=adapters) if adapters else "",
            n_gpu_layers=plan.placement.n_gpu_layers,
            split_mode=plan.placement.split_mode.name,
            tensor_split=list(plan.placement.tensor_split) or (None if uses_class else []),
            n_ctx=context.n_ctx,
            n_batch=context.n_batch,
            n_ubatch=context.n_ubatch,
            n_threads=n_threads,
            n_threads_batch=context.n_threads_batch or n_threads,
            parallel=context.parallel,
            n_outputs=context.n_outputs,
            flash_attn=context.flash_attn is not FlashAttention.OFF,
            flash_attn_type=_FLASH_ATTENTION[context.flash_attn],
            kv_unified=context.kv_unified,
            swa_full=context.swa_full,
            kv_type_k=context.kv_type_k,
            kv_type_v=context.kv_type_v,
            type_k=KV_TYPES[context.kv_type_k].id,
            type_v=KV_TYPES[context.kv_type_v].id,
            use_mmap=context.use_mmap,
            load_mode=_load_mode(context),
            host_weights=_host_weights_lines(context),
        )
        .removesuffix("\n")
    )


def _host_weights_lines(context: Context) -> str:
    no_repack = "" if context.repack else "params.use_extra_bufts = False\n"
    return no_repack + ("params.no_host = True\n" if context.no_host else "")


def _load_mode(context: Context) -> str:
    if context.mlock:
        return f"LLAMA_LOAD_MODE_{'MMAP_' if context.use_mmap else ''}MLOCK"
    return f"LLAMA_LOAD_MODE_{'AUTO' if context.use_mmap else 'NONE'}"


def _rope_lines(rope: Rope) -> str:
    """Fields of llama_context_params with the names of llama.h."""
    lines = []
    if rope.scaling is not None:
        lines.append(f"params.rope_scaling_type = C.LLAMA_ROPE_SCALING_TYPE_{rope.scaling.name}\n")
    lines += [f"params.{name} = {value}\n" for name, value in rope.numbers.items()]
    return "".join(lines)


def _check(plan: Plan) -> None:
    """Raises BadPlan if a script cannot do what the plan says."""
    if plan.context.pooling is not None:
        raise BadPlan("a script for llama-cpp-python generates text; for embeddings use --emit llama-server")
    if plan.disk_reads is not None:
        raise BadPlan(
            "llama-cpp-python would put all weights into memory, which does not hold them: use `vram-llm "
            "serve --from-disk`, or --emit llama-server"
        )
    if plan.context.n_mtp:
        raise BadPlan(
            "a script for llama-cpp-python does not use the model's MTP head; use --emit llama-server, or "
            "plan without --draft"
        )
    if plan.context.processor != AS_USUAL:
        raise BadPlan(
            "a script for llama-cpp-python gives threads neither CPUs nor priorities nor a NUMA strategy; "
            "use --emit llama-server, or plan without these flags"
        )
    if others := [companion for companion in plan.companions if companion.kind is not CompanionKind.LORA]:
        raise BadPlan(
            f"a script for llama-cpp-python cannot load {others[0].name} with the model; use "
            "--emit llama-server"
        )


def _overrides(plan: Plan, exported: ExportedDevices) -> list[tuple[bytes, bytes]]:
    """The pattern and ggml device name of each of the placement's overrides.

    A placement without overrides gets one that matches no tensor if llama.cpp shall make no pipeline copies:
    any override prevents them.
    """
    placement = plan.placement
    if not placement.overrides and not plan.context.pipeline_copies and len(exported.names) > 1:
        return [(NO_TENSOR.encode(), b"CPU")]
    return [
        (
            override.pattern.encode(),
            (b"CPU" if override.device == HOST else exported.name_of(override.device).encode()),
        )
        for override in placement.overrides
    ]


def _remarks(plan: Plan, exported: ExportedDevices, *, uses_class: bool) -> list[str]:
    lines = [f"{plan.model.name} {plan.model.quantization}, as planned; for llama-cpp-python 0.3.36."]
    lines += exported.remarks
    if is_remote(plan.model.path):
        lines.append(f"Fetch {plan.model.path} first and put its path in.")
    if exported.endpoints:
        lines.append("The bindings must be built with RPC: CMAKE_ARGS=-DGGML_RPC=ON.")
    if uses_class and (n_more_rows := plan.context.n_ubatch - plan.context.n_outputs) > 0:
        output = plan.placement.output_device
        place = "the host" if output == HOST else next(d.name for d in exported.devices if d.id == output)
        lines += [
            f"Llama serves 1 sequence, where the plan has {plan.context.parallel}, and reserves logits for a",
            f"whole batch: compute on {place} is larger by {n_more_rows} rows of the vocabulary's size x "
            "4 bytes.",
        ]
    return lines


def _environment_lines(variables: tuple[tuple[str, str], ...], n_threads: int | str) -> str:
    if not variables and n_threads != _ALL_CORES:
        return ""
    lines = (f"os.environ[{name!r}] = {value!r}\n" for name, value in variables)
    return f"import os\n\n{''.join(lines)}\n"


def _model_path(plan: Plan) -> str:
    path = plan.model.path
    return f"<path of {RemoteFile(path, path).name}>" if is_remote(path) else str(Path(path))
