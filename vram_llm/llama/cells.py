"""Cells of llama.cpp's memory (KV cache, recurrent states, windows): share, cut, save and restore them."""

import ctypes

import numpy as np
import numpy.typing as npt

from vram_llm.llama.bindings import C

MAX_SLOTS = (
    256  # LLAMA_MAX_SEQ: cells may belong to any id below it, and rows of a batch to those below n_seq_max
)
_WHOLE, _PART = 0, 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: without the cells of full attention
_ANY = 2**31 - 1  # rows
_State = npt.NDArray[np.uint8]
_bytes_at = ctypes.POINTER(ctypes.c_uint8)


class Cells:
    """The memory of one context. `is_stateful` is true if a sequence cannot be cut at any position
    shorter, `can_rewind` if the rows of the last step can be taken back: `most_rewound` of them.

    Every operation walks over all cells of the cache on the host: some microseconds per thousand cells.
    """

    def __init__(self, ctx: int, model: int) -> None:
        self._ctx = ctx
        self._memory = C.llama_get_memory(ctx)
        self.exist = bool(self._memory)  # an encoder has no memory
        recurrent = C.llama_model_is_recurrent(model) or C.llama_model_is_hybrid(model)
        self.is_stateful: bool = recurrent or C.llama_model_n_swa(model) > 0
        self.most_rewound: int = C.llama_n_rs_seq(ctx) if recurrent else _ANY
        self.can_rewind: bool = self.most_rewound > 0
        self._rewinds_states = recurrent and self.can_rewind
        self._rewound: set[int] = set()  # slots whose states may have been taken back since their last step

    def share(self, source: int, slot: int, length: int) -> None:
        """Share the first `length` cells of a slot with an empty one, without copying them.

        States that were taken back are copied: llama_memory_recurrent::seq_cp would share the newest ones.
        """
        state = self.state(source, part=True) if source in self._rewound else None
        C.llama_memory_seq_cp(self._memory, source, slot, 0, length)
        if state is not None:
            self.restore(slot, state, part=True)

    def cut(self, slot: int, length: int) -> bool:
        """Free a slot's cells from position `length` on; False if this kind of memory cannot."""
        is_cut = bool(C.llama_memory_seq_rm(self._memory, slot, length, -1))
        if is_cut and self._rewinds_states:
            self._rewound.add(slot)
        return is_cut

    def forget(self, slot: int) -> None:
        """Free all cells of a slot."""
        self._rewound.discard(slot)
        C.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def state(self, slot: int, *, part: bool = False) -> _State:
        """A copy of a slot's memory; with `part`, only of recurrent states and windows."""
        flags = _PART if part else _WHOLE
        n_bytes = C.llama_state_seq_get_size_ext(self._ctx, slot, flags)
        state = np.empty(n_bytes, np.uint8)
        written = C.llama_state_seq_get_data_ext(self._ctx, _at(state), n_bytes, slot, flags)
        return state[:written]

    def state_bytes(self, slot: int) -> int:
        """The size of `state(slot)`."""
        return int(C.llama_state_seq_get_size_ext(self._ctx, slot, _WHOLE))

    def restore(self, slot: int, state: _State, *, part: bool = False) -> bool:
        """Restore a state into any slot; False if there is no room for it."""
        flags = _PART if part else _WHOLE
        return bool(C.llama_state_seq_set_data_ext(self._ctx, _at(state), state.nbytes, slot, flags))


def _at(state: _State) -> object:
    return state.ctypes.data_as(_bytes_at)
