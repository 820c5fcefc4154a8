"""Loads the model and makes the context of a Plan."""

import ctypes
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vram_llm.errors import ModelRefused, VramLLMError
from vram_llm.llama import bindings as b
from vram_llm.llama import memory_breakdown
from vram_llm.llama.adapters import apply_adapters, load_adapters, set_adapters
from vram_llm.llama.batch import TokenBatch
from vram_llm.llama.bindings import C
from vram_llm.llama.cells import Cells
from vram_llm.llama.control_vectors import apply_control_vectors
from vram_llm.llama.device_samplers import DeviceSamplers, reserve
from vram_llm.llama.devices import Servers, handles
from vram_llm.llama.held_buffers import HeldBuffers
from vram_llm.llama.lock_limit import raise_lock_limit
from vram_llm.llama.mtp_head import (
    HiddenStates,
    MtpHead,
    give_hidden_states,
    hidden_states,
    keep_hidden_states,
)
from vram_llm.llama.multimodal.encoder import ImageReader
from vram_llm.llama.params import ModelParams, context_params, load_mode
from vram_llm.llama.sampling import SamplerChain
from vram_llm.llama.thread_pools import ThreadPools, use_numa
from vram_llm.llama.vocab import Vocab
from vram_llm.llama.weights_on_disk import WeightsOnDisk
from vram_llm.model.file_identity import check_files
from vram_llm.model.pooling import Pooling
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.mtp import hidden_bytes
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import HOST, CompanionKind, Plan

# returns an address, where the bindings make a pointer object for every row
_logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
    ("llama_get_logits_ith", C._lib)
)

_all_logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(("llama_get_logits", C._lib))

NO_ROOM = 1  # of `LoadedModel.decode`: "could not find a KV slot for the batch"

Progress = Callable[[float], bool]  # fraction loaded; returns False to cancel the load


class LoadedModel:
    """A model on the devices of its plan, with one context for all sequences. Call `close` at the end.

    Methods: more than twenty, because each call of llama.cpp on the model or its context has one here, so
    that their handles stay in this class.
    """

    def __init__(
        self,
        plan: Plan,
        progress: Progress | None = None,
        servers: Servers | None = None,
        *,
        extra_buffers: bool = True,
    ) -> None:
        """Load; a process that loads several models passes the same `servers`. See `devices.handles`.

        `extra_buffers`: see ModelParams. Raises BadPlan if a device is not here or a file has changed,
        ModelRefused with llama.cpp's own words.
        """
        check_files(plan.files)
        C.llama_backend_init()
        use_numa(plan.context.processor.numa)
        self.plan = plan
        self.extra_buffers = extra_buffers
        self.note_batch: Callable[[int], None] = lambda _: None  # called with the rows of each batch
        servers = {} if servers is None else servers
        self._handles = handles(plan.devices, plan.placement.device_order, servers)
        b.forget_lines()
        self._model = self._load(progress)
        self._on_disk: WeightsOnDisk | None = None
        try:
            self._adapters = load_adapters(
                self._model,
                [(lora.path, lora.scale) for lora in plan.companions if lora.kind is CompanionKind.LORA],
            )
            self.vocab = Vocab(C.llama_model_get_vocab(self._model))
            n_attached = plan.context.parallel if plan.context.backend_sampling else 0
            self._attached = DeviceSamplers(n_attached, self.vocab.n_tokens)
            if plan.disk_reads is not None:
                self._on_disk = WeightsOnDisk(plan, self._model)
            self._ctx = self._make_context()
        except VramLLMError:
            self._free_model()
            raise
        apply_adapters(self._ctx, self._adapters)
        self.mtp_head: MtpHead | None = None
        self._thread_pools: ThreadPools | None = None
        try:
            apply_control_vectors(self._ctx, self._model, plan.companions)
            self._thread_pools = ThreadPools(self._ctx, plan.context)
            self.mtp_head = self._make_head()
            self.images = self._read_images(servers)
        except VramLLMError:
            self._free_contexts()
            self._free_model()
            raise
        self._using = self.planned_adapters
        self.cells = Cells(self._ctx, self._model)
        self.n_ctx: int = C.llama_n_ctx(self._ctx)
        self.n_ctx_seq: int = C.llama_n_ctx_seq(self._ctx)  # tokens of one sequence
        self.n_batch: int = C.llama_n_batch(self._ctx)
        self.n_ubatch: int = C.llama_n_ubatch(self._ctx)
        self.batch = TokenBatch(self.n_batch)
        self._views: dict[int, npt.NDArray[np.float32]] = {}  # rows of logits by their address
        self._block_at = 0
        self._block = np.empty((0, self.vocab.n_tokens), np.float32)  # logits of several rows

    def _load(self, progress: Progress | None) -> int:
        plan = self.plan
        self._held = HeldBuffers(self._handles if plan.placement.split_mode is SplitMode.TENSOR else ())
        params = ModelParams(
            plan.placement,
            plan.context,
            self._handles,
            extra_buffers=self.extra_buffers,
            kv_overrides=plan.model.kv_overrides,
        )
        if plan.context.mlock:
            raise_lock_limit()
        params.struct.load_mode = load_mode(plan.context)
        params.struct.check_tensors = plan.serving.check_tensors
        if progress is not None:
            callback = C.llama_progress_callback(lambda fraction, _: progress(fraction))
            params.keep(callback)
            params.struct.progress_callback = callback
        self._params = params  # a model split by tensors reads its shares when a context is made
        model = C.llama_model_load_from_file(os.fsencode(plan.model.path), params.struct)
        if not model:
            reason = b.last_errors() or "it gives no reason"
            raise ModelRefused(f"llama.cpp will not load {Path(plan.model.path).name}: {reason}")
        self._held.mark()
        return int(model)

    def _make_context(self) -> int:
        wanted = self.plan.context
        params = context_params(wanted)
        if wanted.backend_sampling:
            self._attached.put_into(params)
        if self._on_disk is not None:
            self._on_disk.put_into(params)
        ctx = C.llama_init_from_model(self._model, params)
        if not ctx:
            raise ModelRefused(
                f"llama.cpp loaded {self.plan.model.name} but will not make a context of {wanted.n_ctx} "
                f"tokens: {b.last_errors() or 'it gives no reason'}; try a smaller --n-ctx"
            )
        self._held.mark()
        return int(ctx)

    def _make_head(self) -> MtpHead | None:
        """The plan's MTP head, or None. The model gives no hidden states until `keep_hidden_states` asks."""
        if not self.plan.context.n_mtp:
            return None
        give_hidden_states(self._ctx, of_all_rows=True)
        keep_hidden_states(self._ctx, keep=False)  # buffers for them are there now
        head = MtpHead(self._model, self.plan.context)
        if self._thread_pools is not None:
            self._thread_pools.attach(head.ctx)
        return head

    def _read_images(self, servers: Servers) -> ImageReader | None:
        """The plan's projector, on its device; None if the plan has none."""
        plan = self.plan
        found = next(
            (companion for companion in plan.companions if companion.kind is CompanionKind.MMPROJ), None
        )
        if found is None:
            return None
        on_host = found.device is None or found.device == HOST
        (device,) = (None,) if on_host else handles(plan.devices, (str(found.device),), servers)
        return ImageReader(
            found.path,
            self._model,
            self._ctx,
            device,
            flash_attn=plan.context.flash_attn,
            n_threads=plan.context.n_threads_batch or plan.context.n_threads,
        )

    @property
    def ctx(self) -> int:
        """The llama_context, for samplers."""
        return self._ctx

    @property
    def planned_adapters(self) -> tuple[tuple[int, float], ...]:
        """Numbers and scales of the plan's LoRA adapters, those of scale 0 left out."""
        return tuple((i, adapter.scale) for i, adapter in enumerate(self._adapters) if adapter.scale)

    def use_adapters(self, adapters: tuple[tuple[int, float], ...] | None) -> None:
        """Compute later batches with these LoRA adapters, by number and scale; None: as planned."""
        wanted = self.planned_adapters if adapters is None else adapters
        if wanted != self._using:
            set_adapters(self._ctx, [replace(self._adapters[i], scale=scale) for i, scale in wanted])
            self._using = wanted

    def adapter_metadata(self, number: int, key: str) -> str:
        """A scalar of an adapter file's metadata as text; "" if it is missing."""
        return self._adapters[number].metadata(key)

    def decode(self) -> int:
        """Run the batch; devices may go on computing afterwards (see `wait`).

        0: done. 1: no room in the KV cache, nothing has changed. Below 0: an error of llama.cpp.
        """
        self.note_batch(self.batch.n_rows)
        status: int = C.llama_decode(self._ctx, self.batch.struct)
        return status

    def wait(self) -> None:
        """Wait until the devices have computed the batch."""
        C.llama_synchronize(self._ctx)

    def forget(self, sequence: int) -> None:
        """Free all cells of a sequence."""
        self.cells.forget(sequence)

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Logits of batch row `row`, shape (n_vocab,): a view, good until the next decode."""
        address = _logits_address(self._ctx, row)
        view = self._views.get(address)
        if view is None:
            floats = (ctypes.c_float * self.vocab.n_tokens).from_address(address)
            view = self._views[address] = np.ctypeslib.as_array(floats)
        return view

    def hidden_states(self) -> HiddenStates:
        """The hidden states of the batch's rows, shape (n_rows, n_embd): a view, good until the next decode.

        Only with an MTP head.
        """
        assert self.mtp_head is not None
        return hidden_states(self._ctx, self.batch.n_rows, self.mtp_head.n_embd)

    def argmax(self, n_rows: int) -> list[int]:
        """The most likely token of each of the batch's first `n_rows` rows, which all have logits."""
        address = _all_logits_address(self._ctx)
        if address != self._block_at or n_rows != len(self._block):
            floats = (ctypes.c_float * (n_rows * self.vocab.n_tokens)).from_address(address)
            self._block_at, self._block = address, np.ctypeslib.as_array(floats).reshape(n_rows, -1)
        best: list[int] = self._block.argmax(axis=1).tolist()
        return best

    def attach(self, sequence: int, chain: SamplerChain | None) -> bool:
        """Let the device sample a sequence with `chain`, or with None the host. See DeviceSamplers.attach.

        A step copies logits to the host only if it has a row of a sequence without a chain.
        """
        return self._attached.attach(self._ctx, sequence, chain)

    def attached(self, sequence: int) -> SamplerChain:
        """The chain that samples a sequence on the device."""
        return self._attached.of(sequence)

    def reserve(self) -> None:
        """Make compute buffers for the attached chains now; else the next decode does."""
        reserve(self._ctx)

    def sampled(self, row: int) -> int:
        """The token that the device sampled from batch row `row`; below 0: none."""
        return int(C.llama_get_sampled_token_ith(self._ctx, row))

    def pooled(self, sequence: int) -> npt.NDArray[np.float32]:
        """The pooled output of a sequence of the last batch, shape (n_pooled,): a copy."""
        address = ctypes.cast(C.llama_get_embeddings_seq(self._ctx, sequence), ctypes.c_void_p).value
        assert address is not None
        return np.frombuffer(ctypes.string_at(address, 4 * self.n_pooled), np.float32)

    def token_vectors(self, first: int, count: int) -> npt.NDArray[np.float32]:
        """The outputs of `count` rows of the last batch, shape (count, n_pooled), without pooling: a copy."""
        vectors = np.empty((count, self.n_pooled), np.float32)
        for i in range(count):
            address = ctypes.cast(C.llama_get_embeddings_ith(self._ctx, first + i), ctypes.c_void_p).value
            assert address is not None
            vectors[i] = np.frombuffer(ctypes.string_at(address, 4 * self.n_pooled), np.float32)
        return vectors

    @property
    def n_pooled(self) -> int:
        """Numbers in the pooled output of a text: an embedding, or a reranker's scores."""
        if self.plan.context.pooling is Pooling.RANK:
            return int(C.llama_model_n_cls_out(self._model))
        return int(C.llama_model_n_embd_out(self._model))

    @property
    def can_split_texts(self) -> bool:
        """Whether several batches may compute one text: each token sees the earlier ones alone.

        The output is then that of the last token, or the engine pools.
        """
        context = self.plan.context
        from_last = context.pooling in (Pooling.LAST, Pooling.RANK)
        return (
            (from_last or context.pools_in_engine)
            and self.cells.exist
            and bool(C.llama_get_causal_attn(self._ctx))
        )

    def memory_use(self) -> dict[str, MemoryUse]:
        """Bytes that llama.cpp holds per device id of the plan, and for "host" (all CPU buffer types)."""
        if self.plan.placement.split_mode is SplitMode.TENSOR:
            return self._shared_memory_use()
        ids = dict(zip(self._handles, self.plan.placement.device_order, strict=True))
        uses = memory_breakdown.memory_use(self._ctx)
        if (head := self.mtp_head) is not None:
            uses[None] += MemoryUse(compute_bytes=hidden_bytes(self.plan.context, head.n_embd))
            for device, use in head.memory_use().items():
                uses[device] = uses.get(device, MemoryUse()) + use
        return {HOST if device is None else ids[device]: use for device, use in uses.items()}

    def _shared_memory_use(self) -> dict[str, MemoryUse]:
        """The same for devices that share tensors, whose buffers are counted."""
        uses = memory_breakdown.memory_use(self._ctx)
        host = uses.pop(None, MemoryUse())
        graph_bytes = sum(use.compute_bytes for use in uses.values())  # each device has a buffer of this size
        held = self._held.uses(graph_bytes)
        return {HOST: host, **dict(zip(self.plan.placement.device_order, held, strict=True))}

    def free_bytes(self) -> dict[str, int]:
        """Free bytes of each device of this computer with memory of its own, by its id."""
        own = {each.id for each in self.plan.devices if each.endpoint is None and not each.shares_host_memory}
        free, total, found = ctypes.c_size_t(), ctypes.c_size_t(), {}
        for device_id, handle in zip(self.plan.placement.device_order, self._handles, strict=True):
            if device_id in own:
                b.dev_memory(handle, free, total)
                found[device_id] = free.value
        return found

    def metadata(self, key: str) -> str | None:
        """A scalar of the model file's metadata as text."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = C.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
            if n < 0:
                return None
            if n < size:
                return buffer.value.decode("utf-8", "replace")
            size = n + 1

    @property
    def n_ctx_train(self) -> int:
        """The context length the model was trained on."""
        return int(C.llama_model_n_ctx_train(self._model))

    @property
    def n_embd(self) -> int:
        """Numbers in a hidden state."""
        return int(C.llama_model_n_embd(self._model))

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return int(C.llama_model_n_params(self._model))

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights."""
        return int(C.llama_model_size(self._model))

    def close(self) -> None:
        """Free projector, context and model. Once only."""
        if self.images is not None:
            self.images.close()
        self._free_contexts()
        self._attached.close()
        self._free_model()

    def _free_contexts(self) -> None:
        if self.mtp_head is not None:
            self.mtp_head.close()
        C.llama_free(self._ctx)
        if self._thread_pools is not None:
            self._thread_pools.close()

    def _free_model(self) -> None:
        if self._on_disk is not None:
            self._on_disk.close()
        C.llama_model_free(self._model)
