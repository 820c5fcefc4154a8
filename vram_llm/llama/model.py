"""A Plan becomes a loaded model and its context."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vram_llm.errors import BadPlan, ModelRefused
from vram_llm.llama import bindings as b
from vram_llm.llama import memory, rpc
from vram_llm.llama.batch import Batch
from vram_llm.llama.bindings import C
from vram_llm.llama.vocab import Vocab
from vram_llm.model.quants import KV_TYPES
from vram_llm.plan.types import HOST, Plan, PlannedDevice

Progress = Callable[[float], bool]  # fraction loaded; False gives up

LOAD_AUTO, LOAD_WITHOUT_MMAP = -1, 0  # llama_load_mode of llama.h


class LoadedModel:
    """A model on the devices its plan names, with one context over all sequences. Call `close` at the end."""

    def __init__(self, plan: Plan, progress: Progress | None = None) -> None:
        """Load. Raises BadPlan where a device is not here, ModelRefused with llama.cpp's own words."""
        C.llama_backend_init()
        self.plan = plan
        self._handles = _handles(plan)
        self._kept: list[object] = []  # what C still points at
        b.recent_lines.clear()
        self._model = self._load(progress)
        try:
            self._ctx = self._make_context()
        except ModelRefused:
            C.llama_model_free(self._model)
            raise
        self._memory = C.llama_get_memory(self._ctx)
        self.vocab = Vocab(C.llama_model_get_vocab(self._model))
        self.n_ctx: int = C.llama_n_ctx(self._ctx)
        self.n_batch: int = C.llama_n_batch(self._ctx)
        self.n_ubatch: int = C.llama_n_ubatch(self._ctx)
        self.batch = Batch(self.n_batch)

    def _load(self, progress: Progress | None) -> int:
        plan, params = self.plan, C.llama_model_default_params()
        devices = (b.Pointer * (len(self._handles) + 1))(*self._handles, None)
        split = (ctypes.c_float * C.llama_max_devices())(*plan.placement.tensor_split)
        self._kept += [devices, split]
        params.devices = ctypes.cast(devices, b.Pointer)
        params.tensor_split = split
        params.n_gpu_layers = plan.placement.n_gpu_layers
        params.load_mode = LOAD_AUTO if plan.context.use_mmap else LOAD_WITHOUT_MMAP
        params.use_extra_bufts = not b.has_amx_kernels()
        if progress is not None:
            callback = C.llama_progress_callback(lambda fraction, _: progress(fraction))
            self._kept.append(callback)
            params.progress_callback = callback
        model = C.llama_model_load_from_file(os.fsencode(plan.model.path), params)
        if not model:
            reason = b.last_errors() or "it gives no reason"
            raise ModelRefused(f"llama.cpp will not load {Path(plan.model.path).name}: {reason}")
        return int(model)

    def _make_context(self) -> int:
        wanted, params = self.plan.context, C.llama_context_default_params()
        params.n_ctx = wanted.n_ctx
        params.n_batch = wanted.n_batch
        params.n_ubatch = wanted.n_ubatch
        params.n_seq_max = wanted.parallel
        params.n_outputs_max = wanted.parallel  # one row of logits a sequence: the plan reserves no more
        params.n_threads = params.n_threads_batch = wanted.n_threads
        params.type_k, params.type_v = KV_TYPES[wanted.kv_type_k].id, KV_TYPES[wanted.kv_type_v].id
        params.kv_unified = True
        params.swa_full = False
        params.op_offload = False  # would copy host layers' weights through memory no plan has counted
        params.no_perf = True
        ctx = C.llama_init_from_model(self._model, params)
        if not ctx:
            raise ModelRefused(
                f"llama.cpp loaded {self.plan.model.name} but will not make a context of {wanted.n_ctx} "
                f"tokens: {b.last_errors() or 'it gives no reason'}; try a smaller --n-ctx"
            )
        return int(ctx)

    @property
    def ctx(self) -> int:
        """The llama_context, for samplers."""
        return self._ctx

    def decode(self) -> int:
        """Run the batch. 0 done, 1 no room in the KV cache (nothing changed), below 0 llama.cpp's errors."""
        return int(C.llama_decode(self._ctx, self.batch.struct))

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Logits of batch row `row`, shape (n_vocab,): a view, good until the next decode."""
        return np.ctypeslib.as_array(C.llama_get_logits_ith(self._ctx, row), shape=(self.vocab.n_tokens,))

    def forget(self, sequence: int) -> None:
        """Free the cells of a sequence."""
        C.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def memory_use(self) -> dict[str, memory.BufferUse]:
        """What llama.cpp holds per device id of the plan, and "host" (all CPU buffer types added up)."""
        ids = dict(zip(self._handles, self.plan.placement.device_order, strict=True))
        uses: dict[str, memory.BufferUse] = {}
        for use in memory.breakdown(self._ctx):
            device = HOST if use.device is None else ids[use.device]
            before = uses.get(device)
            uses[device] = use if before is None else memory.added(before, use)
        return uses

    def metadata(self, key: str) -> str | None:
        """A scalar of the model file's metadata as text."""
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = C.llama_model_meta_val_str(self._model, key.encode(), buffer, room)
            if n < 0:
                return None
            if n < room:
                return buffer.value.decode("utf-8", "replace")
            room = n + 1

    @property
    def n_ctx_train(self) -> int:
        """The context length the model was trained on."""
        return int(C.llama_model_n_ctx_train(self._model))

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return int(C.llama_model_n_params(self._model))

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights."""
        return int(C.llama_model_size(self._model))

    def close(self) -> None:
        """Free context and model. Once only."""
        C.llama_free(self._ctx)
        C.llama_model_free(self._model)


def _handles(plan: Plan) -> list[int]:
    """ggml's handle for each device of the placement, in its order."""
    by_id = {device.id: device for device in plan.devices}
    servers: dict[str, list[int]] = {}
    return [_handle(by_id[device_id], servers) for device_id in plan.placement.device_order]


def _handle(device: PlannedDevice, servers: dict[str, list[int]]) -> int:
    if device.what_if:
        raise BadPlan(
            f"{device.name} is planned for but not in this machine; plan again without --gpu to serve here"
        )
    if device.endpoint is not None:
        if device.endpoint not in servers:
            servers[device.endpoint] = rpc.connect(device.endpoint)
        return servers[device.endpoint][device.endpoint_index]
    for handle in b.local_devices():
        identity = b.props_of(handle).device_id
        if identity and identity.decode().lower() == device.pci_bus_id:
            return handle
    raise BadPlan(
        f"llama.cpp does not see {device.name} (PCI {device.pci_bus_id}); "
        "is it built for this card's back end? `make setup` says what it found"
    )
