"""What a loaded engine says of itself."""

from dataclasses import dataclass
from enum import StrEnum

from vram_llm.model.pooling import Pooling


class EngineState(StrEnum):
    """Where the engine process is in its life."""

    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    DEAD = "dead"  # and not coming back; between deaths and restarts it is LOADING


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedMemory:
    """What llama.cpp holds on one device ("GPU0", "RPC1", "host") after the load, in bytes."""

    id: str
    weights_bytes: int
    context_bytes: int
    compute_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The loaded model, as far as a server needs it."""

    name: str  # the id clients use
    path: str
    architecture: str
    parameters: int
    size_bytes: int
    n_vocab: int
    n_ctx: int  # tokens one request may use; all may use the same ones where the KV cache is unified
    n_ctx_train: int
    parallel: int
    chat_template: str | None
    bos_token: str
    eos_token: str
    created: int  # Unix seconds of the load
    memory: tuple[LoadedMemory, ...] = ()
    draft_memory: tuple[LoadedMemory, ...] = ()  # the same of its draft model
    pooling: Pooling | None = None  # of the embeddings it makes; None: it writes text
    n_pooled: int = 0  # numbers in one of them
    adapters: tuple[str, ...] = ()  # names of its LoRA adapters
    takes_images: bool = False  # it has a projector
    using: tuple[int, ...] | None = None  # which of them a request asks for, by number; None: all
    tool_template: str | None = None  # the chat template for requests with tools, where its file has one
    n_embd: int = 0  # numbers in a hidden state
    vocab_type: int = 0  # llama_vocab_type of llama.h
    sampling: tuple[tuple[str, float | int], ...] = ()  # fields of SamplingParams that its file names
