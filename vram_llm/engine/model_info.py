"""Facts about a loaded engine."""

from dataclasses import dataclass, field
from enum import StrEnum

from vram_llm.engine.adapters import AdapterInfo, Adapters
from vram_llm.model.fim_tokens import FimTokens
from vram_llm.model.pooling import Pooling
from vram_llm.planner.estimates import MemoryUse


class EngineState(StrEnum):
    """Phase of the engine process's life cycle."""

    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    DEAD = "dead"  # for good; between a death and a restart it is LOADING


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Facts about the loaded model that a server needs."""

    name: str  # the id clients use
    path: str
    architecture: str
    parameters: int
    size_bytes: int
    n_vocab: int
    n_ctx: int  # tokens of one request; requests share cells if the KV cache is unified
    n_ctx_train: int
    parallel: int
    chat_template: str | None
    bos_token: str
    eos_token: str
    created: int  # Unix seconds of the load
    memory: dict[str, MemoryUse] = field(default_factory=dict)  # by device id, after the load
    draft_memory: dict[str, MemoryUse] = field(default_factory=dict)  # of its draft model
    pooling: Pooling | None = None  # of embeddings; None: it generates text
    n_pooled: int = 0  # numbers in an embedding
    adapters: tuple[str, ...] = ()  # names of its LoRA adapters
    takes_images: bool = False  # it has a projector of images
    takes_audio: bool = False  # it has a projector of sound
    adapter_files: tuple[AdapterInfo, ...] = ()  # the same adapters
    adapters_used: Adapters | None = None  # of a request; None: all, as planned
    tool_template: str | None = None  # the chat template for requests with tools, if its file has one
    n_embd: int = 0  # numbers in a hidden state
    max_prompt_bytes: int | None = None  # of a text that can fit `n_ctx` tokens; None: unknown
    vocab_type: int = 0  # llama_vocab_type of llama.h
    sampling: tuple[tuple[str, float | int], ...] = ()  # fields of SamplingParams that its file names
    quantization: str = ""  # the usual name of its file's, such as Q4_K_M
    fim: FimTokens = field(default_factory=FimTokens)
    ends: tuple[int, ...] = ()  # tokens that end an answer, ascending
