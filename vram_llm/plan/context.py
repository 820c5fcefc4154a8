"""The llama.cpp context that a workload calls for."""

from vram_llm.errors import BadPlan
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES
from vram_llm.plan.memory import pad
from vram_llm.plan.types import Context, Workload

CTX_STEP = 256  # llama.cpp pads n_ctx to a multiple of it
NO_TENSOR = "^$"
"""No tensor is called so: with any tensor override llama.cpp makes no pipeline copies (llama-context.cpp)."""


def resolve_context(profile: ModelProfile, machine: Machine, workload: Workload) -> Context:
    """Every open choice of the context made, with llama.cpp's own rounding. Raises BadPlan."""
    trained = profile.context_length or Workload.DEFAULT_N_CTX
    wanted = workload.n_ctx or min(Workload.DEFAULT_N_CTX, trained)
    n_ctx = pad(wanted, CTX_STEP)
    n_batch = min(workload.n_batch, n_ctx)
    for name in (workload.kv_type_k, workload.kv_type_v):
        block = KV_TYPES[name].block
        if odd := next((n for n in (profile.head_k, profile.head_v) if n % block), None):
            raise BadPlan(
                f"KV type {name} stores blocks of {block} and this model has attention heads of {odd}; "
                "use --kv-type f16"
            )
    return Context(
        n_ctx=n_ctx,
        parallel=workload.parallel,
        kv_type_k=workload.kv_type_k,
        kv_type_v=workload.kv_type_v,
        n_batch=n_batch,
        n_ubatch=min(workload.n_ubatch, n_batch),
        n_threads=machine.host.cores,
        use_mmap=workload.use_mmap,
        pipeline_copies=workload.pipeline_copies,
    )
