"""The llama.cpp context for a workload."""

from dataclasses import replace

from vram_llm.errors import BadPlan
from vram_llm.machine.types import Device, DeviceKind, Machine
from vram_llm.model.pooling import Pooling
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.mtp import MTP, has_draft, most_drafted, mtp_refusal
from vram_llm.planner.padding import pad
from vram_llm.planner.tensor_split import SplitChoice
from vram_llm.planner.types import BackendSampling, Context, FlashAttention, Objective, Workload

CTX_STEP = 256  # llama.cpp pads the tokens of a sequence to a multiple of it
DRAFTED_TOKENS = 3  # per sequence and step: --spec-draft-n-max of llama-server
LEAST_OUTPUTS = 8  # rows of logits, enough to check drafts for a single stream
KEEPS_NOTHING = "f16"  # an encoder's KV type: it has no cache, and llama.cpp refuses a quantised type
EMBEDDED_TEXTS = 64  # texts per step of an encoder, which has no cache
# Not Vulkan: on Mesa's software driver about half of all loads with device sampling ended in a corrupt heap.
SAMPLING_KINDS = frozenset({DeviceKind.CUDA, DeviceKind.ROCM, DeviceKind.METAL})
"""Devices on which sampling is faster than copying the logits to the host."""
_UNMAPPED_KINDS = frozenset({DeviceKind.CUDA, DeviceKind.ROCM, DeviceKind.VULKAN})
NO_TENSOR = "^$"
"""Matches no tensor; with any tensor override llama.cpp makes no pipeline copies (llama-context.cpp)."""


def ctx_step(workload: Workload) -> int:
    """The least number of tokens by which a context can grow."""
    return CTX_STEP if workload.kv_unified else CTX_STEP * workload.parallel


def wants_largest_context(workload: Workload) -> bool:
    """Whether the user asks for the longest context that fits."""
    return workload.largest_ctx or (workload.objective is Objective.CONTEXT and workload.n_ctx is None)


def wants_auto_context(profile: ModelProfile, workload: Workload) -> bool:
    """Whether the planner chooses the length (auto_context.py).

    Embeddings have resolve_context's default, because their compute buffers grow with the longest text. So
    have models with a draft model, because its context is as long as the model's.
    """
    is_open = workload.n_ctx is None and not wants_largest_context(workload)
    return is_open and not has_draft(workload) and (workload.pooling or profile.pooling) is None


def resolve_context(profile: ModelProfile, machine: Machine, workload: Workload) -> Context:
    """The context with every choice made and llama.cpp's own rounding. Raises BadPlan."""
    if wants_largest_context(workload) and has_draft(workload):
        raise BadPlan("a draft model takes as much context as the model: with --draft, give --n-ctx a number")
    pooling = workload.pooling or profile.pooling
    if pooling is not None and has_draft(workload):
        raise BadPlan("embeddings are not drafted: leave --draft out")
    trained = profile.context_length or Workload.DEFAULT_N_CTX
    _check_classifier(profile, pooling)
    sees_images = _embeds_images(profile, workload, pooling)
    is_whole = pooling is not None and not sees_images and _needs_whole_texts(profile, pooling)
    default = Workload.DEFAULT_TEXT if is_whole else Workload.DEFAULT_N_CTX
    wanted = trained if workload.n_ctx == 0 else workload.n_ctx or min(default, trained)
    wanted = min(wanted, trained) if is_whole else wanted
    n_caches = 1 if workload.kv_unified else workload.parallel
    n_ctx = (
        pad(pad(wanted, CTX_STEP) // n_caches, CTX_STEP) * n_caches
    )  # rounded as in llama_context's constructor
    n_ubatch = workload.n_ubatch or Workload.DEFAULT_N_UBATCH
    n_batch = min(workload.n_batch or max(Workload.DEFAULT_N_BATCH, n_ubatch), n_ctx)
    _check_kv_types(profile, workload)
    # each drafted token is checked with a row of its own
    least_rows = workload.parallel * (1 + DRAFTED_TOKENS if has_draft(workload) else 1)
    if workload.n_outputs_max is not None and workload.n_outputs_max < least_rows:
        raise BadPlan(
            f"{workload.parallel} sequences that decode need {least_rows} rows of logits a step, and "
            f"--n-outputs-max allows {workload.n_outputs_max}; raise it, or lower --parallel"
        )
    context = Context(
        n_ctx=n_ctx,
        parallel=workload.parallel,
        kv_type_k=workload.kv_type_k,
        kv_type_v=workload.kv_type_v,
        n_batch=n_batch,
        n_ubatch=min(n_ubatch, n_batch),
        n_threads=workload.n_threads or machine.host.best_threads,
        n_threads_batch=workload.n_threads_batch,
        n_threads_given=workload.n_threads is not None,
        use_mmap=(workload.use_mmap or (workload.use_mmap is None and not workload.mlock))
        and profile.can_map
        and not any(map(_is_unmapped, machine.devices)),
        pipeline_copies=workload.pipeline_copies,
        n_outputs_max=workload.n_outputs_max or max(least_rows, LEAST_OUTPUTS),
        flash_attn=workload.flash_attn,
        swa_full=workload.swa_full,
        rope=workload.rope,
        kv_unified=workload.kv_unified,
        pooling=pooling,
        pools_in_engine=sees_images,
        backend_sampling=pooling is None and _samples_on_device(machine, workload),
        op_offload=bool(workload.op_offload),
        kv_offload=workload.kv_offload is not False,
        n_mtp=_n_mtp(profile, workload),
        resident_bytes=0 if workload.from_disk else None,
    )
    context = _with_host(context, workload)
    return context if pooling is None else _for_embeddings(profile, context, is_whole)


def _with_host(context: Context, workload: Workload) -> Context:
    """The context with the workload's wishes on the processor and on the host's weights."""
    return replace(
        context,
        processor=workload.processor,
        mlock=workload.mlock,
        repack=workload.repack,
        no_host=workload.no_host,
    )


def _n_mtp(profile: ModelProfile, workload: Workload) -> int:
    """The most tokens that the model's own MTP head drafts; 0 if it is not asked for. Raises BadPlan."""
    if workload.draft != MTP:
        return 0
    if (reason := mtp_refusal(profile)) is not None:
        raise BadPlan(reason)
    if workload.from_disk:
        raise BadPlan("an MTP head needs its weights in memory: leave --draft mtp or --from-disk out")
    if workload.split_mode not in (None, SplitChoice.LAYER):
        raise BadPlan("an MTP head is not used with a tensor split: leave --draft mtp or the split mode out")
    return most_drafted(profile)


def _is_unmapped(device: Device) -> bool:
    """Whether llama.cpp maps no file if it uses this device: ggml_backend_dev_caps.mmap_support.

    It is false for integrated devices in ggml-cuda.cu (also as ROCm) and ggml-vulkan.cpp.
    """
    return device.shares_host_memory and device.kind in _UNMAPPED_KINDS


def _check_kv_types(profile: ModelProfile, workload: Workload) -> None:
    """Raises BadPlan if llama.cpp cannot keep the model's K and V in the types asked for."""
    if workload.flash_attn is FlashAttention.OFF and KV_TYPES[workload.kv_type_v].is_quantized:
        raise BadPlan(
            f"llama.cpp keeps V as {workload.kv_type_v} only with flash attention, which is switched off; "
            "use --flash-attn auto, or --kv-type f16"
        )
    for name in (workload.kv_type_k, workload.kv_type_v):
        block = KV_TYPES[name].block
        if odd := next((n for n in (profile.head_k, profile.head_v) if n % block), None):
            raise BadPlan(
                f"KV type {name} stores blocks of {block} and this model has attention heads of {odd}; "
                "use --kv-type f16"
            )


def _samples_on_device(machine: Machine, workload: Workload) -> bool:
    """Whether the output's device samples tokens; with AUTO only if all devices are local GPUs."""
    if workload.backend_sampling is not BackendSampling.AUTO:
        return workload.backend_sampling is BackendSampling.ON
    kinds = {device.kind for device in machine.devices}
    return bool(kinds) and kinds <= SAMPLING_KINDS and workload.n_gpu_layers != 0


def _check_classifier(profile: ModelProfile, pooling: Pooling | None) -> None:
    """Raises BadPlan if the model is to rank and cannot."""
    has_classifier = any(tensor.name.startswith("cls.") for tensor in profile.output_tensors)
    if pooling is Pooling.RANK and not has_classifier:
        raise BadPlan(
            f"{profile.name} has no classifier to rank documents with; serve a reranker, or pool otherwise"
        )


def _embeds_images(profile: ModelProfile, workload: Workload, pooling: Pooling | None) -> bool:
    """Whether embeddings may be of images, which are batches of their own. Raises BadPlan."""
    if pooling is None or workload.mmproj is None:
        return False
    if pooling is Pooling.RANK:
        raise BadPlan("documents are ranked by their text alone: leave --mmproj or --pooling rank out")
    if not (profile.has_memory and profile.is_causal):
        raise BadPlan(
            f"{profile.name} computes a text all at once, so that images have no place in it: "
            "leave --mmproj out"
        )
    return True


def _needs_whole_texts(profile: ModelProfile, pooling: Pooling) -> bool:
    """Whether a text has to be one micro-batch, because a token's result depends on later tokens."""
    from_last = pooling in (Pooling.LAST, Pooling.RANK) and profile.is_causal
    return not (profile.has_memory and from_last)


def _for_embeddings(profile: ModelProfile, context: Context, is_whole: bool) -> Context:
    """The context for embeddings: every token of a batch is an output (llama_context::decode and encode)."""
    n_batch = context.n_ctx if is_whole else context.n_ubatch
    context = replace(context, n_batch=n_batch, n_ubatch=n_batch, n_outputs_max=n_batch)
    if profile.has_memory:
        return context
    # on the processor flash attention computes in 16 bits, and its results depend on the number of rows
    plain = context.flash_attn is FlashAttention.AUTO and n_batch <= Workload.DEFAULT_TEXT
    return replace(
        context,
        kv_type_k=KEEPS_NOTHING,
        kv_type_v=KEEPS_NOTHING,
        parallel=max(context.parallel, min(EMBEDDED_TEXTS, n_batch)),
        kv_unified=True,
        flash_attn=FlashAttention.OFF if plain else context.flash_attn,
    )


def can_quantize_cache(profile: ModelProfile, workload: Workload) -> bool:
    """Whether q8_0 makes the requested KV cache smaller, and llama.cpp supports it for this model."""
    is_full = (workload.kv_type_k, workload.kv_type_v) == ("f16", "f16") and profile.kv_bytes_per_token > 0
    has_blocks = not (profile.head_k % 32 or profile.head_v % 32)
    return is_full and has_blocks and workload.flash_attn is not FlashAttention.OFF
