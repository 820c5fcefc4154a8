"""A model of two layers with known sizes, which checks that dry runs are right with this llama.cpp."""

from vram_llm.llama.random_model import RandomModelShape
from vram_llm.machine.types import Device, DeviceKind, Source
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.types import Context, Placement
from vram_llm.units import GIB

SHAPE = RandomModelShape(n_embd=256, n_ff=512, n_layers=2, n_head=4, n_head_kv=2, n_vocab=1000)

DEVICES = [
    Device(id=f"GPU{i}", name="known", kind=DeviceKind.CUDA, total_bytes=GIB, free_bytes=GIB,
           memory_source=Source.GIVEN, row_padding=512)
    for i in range(2)
]  # fmt: skip

EXPECTED = [MemoryUse(631_040, 262_144, 1_053_696), MemoryUse(904_448, 262_144, 726_528)]
"""The bytes that the model takes on each device with the llama.cpp of llama-cpp-python 0.3.36."""


def placement() -> Placement:
    """One layer on each device."""
    return placement_from_counts([device.id for device in DEVICES], [1, 1], SHAPE.n_layers)


def context() -> Context:
    """A small context."""
    return Context(
        n_ctx=512, parallel=2, kv_type_k="f16", kv_type_v="f16", n_batch=128, n_ubatch=64, n_threads=1,
        use_mmap=False, pipeline_copies=True,
    )  # fmt: skip
