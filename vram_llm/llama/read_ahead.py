"""Reads weights of the mapped file before the layer that needs them is computed, and drops them afterwards.

llama.cpp calls back before each layer. A thread asks the kernel for the weights of later layers, in the order
of computation and around to the first layer of the next token, as long as they fit the memory that is left
for them, and drops those of earlier layers. The kernel limits the bytes of one request
(force_page_cache_ra in mm/readahead.c): at least twice the usual 128 KiB of `read_ahead_kb`, since llama.cpp
asks for sequential reading. Without dropping, the kernel would have to look for pages to drop, among those
that stay, for each page that it reads.
"""

import ctypes
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from vram_llm.llama import bindings as b
from vram_llm.llama.bindings import C
from vram_llm.llama.mapped_files import MappedPart

REQUEST_BYTES = 256 * 1024
_LAYER = re.compile(rb"-(\d+)$")  # llm_graph_context::cb names results "attn_norm-12"

_name = b.declare("ggml_get_name", ctypes.c_char_p, b.Pointer)


class DiskPart(NamedTuple):
    """Weights of a layer that stay on the disk."""

    layer: int
    part: MappedPart


class ReadAhead:
    """Reads weights ahead of a context's computation. Call `put_into` before the context is made."""

    def __init__(self, parts: Sequence[DiskPart], window_bytes: int) -> None:
        """`parts` are in the order of computation; at most `window_bytes` of them are in memory."""
        for each in parts:
            each.part.drop()
        requests = [(each.layer, piece) for each in parts for piece in each.part.pieces(REQUEST_BYTES)]
        self._layers = [layer for layer, _ in requests]
        self._pieces = [piece for _, piece in requests]
        self._sums = [0, *accumulate(piece.n_bytes for piece in self._pieces)]
        self._window_bytes = window_bytes
        self._layer = self._next_layer = -1  # the layer that is computed, and the one after it
        self._rounds = 0  # one for each pass over the layers
        # numbers of pieces, counted over all rounds: the first that is needed, read next, dropped next
        self._needed = self._read = self._dropped = 0
        self._changed, self._is_closed = threading.Condition(), False
        self._callback = C.ggml_backend_sched_eval_callback(self._on_node)
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def put_into(self, params: Any) -> None:
        """Let a context with these llama_context_params call back."""
        params.cb_eval = self._callback

    def close(self) -> None:
        """End the thread. The context must not compute afterwards."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _on_node(self, tensor: int, asks: bool, _: object) -> bool:
        """Whether llama.cpp calls again once it has computed `tensor`: for the first result of each layer."""
        if not asks:
            self._begin(self._next_layer)
            return True
        match = _LAYER.search(_name(tensor))
        if match is None or int(match[1]) == self._next_layer:
            return False
        self._next_layer = int(match[1])
        return True

    def _begin(self, layer: int) -> None:
        """Note that a layer's computation begins."""
        with self._changed:
            self._rounds += layer < self._layer
            self._layer = layer
            self._needed = self._rounds * len(self._pieces) + bisect_left(self._layers, layer)
            self._read = max(self._read, self._needed)
            self._changed.notify()

    def _run(self) -> None:
        while (action := self._next()) is not None:
            action()

    def _next(self) -> Callable[[], None] | None:
        """The next task, as soon as there is one; None at the end."""
        with self._changed:
            while not self._is_closed:
                if self._dropped < self._needed:
                    self._dropped += 1
                    return self._piece(self._dropped - 1).drop
                if self._bytes_before(self._read) - self._bytes_before(self._dropped) < self._window_bytes:
                    self._read += 1
                    return self._piece(self._read - 1).will_need
                self._changed.wait()
        return None

    def _piece(self, number: int) -> MappedPart:
        return self._pieces[number % len(self._pieces)]

    def _bytes_before(self, number: int) -> int:
        rounds, index = divmod(number, len(self._pieces))
        return rounds * self._sums[-1] + self._sums[index]
