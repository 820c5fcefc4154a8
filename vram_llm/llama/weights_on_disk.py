"""Weights of a loaded model that stay in its mapped file: a part is kept in memory, the rest read ahead."""

import logging
import mmap
from collections.abc import Iterable, Mapping
from typing import Any

from vram_llm.llama.lock_limit import raise_lock_limit
from vram_llm.llama.mapped_files import MappedFiles, MappedPart
from vram_llm.llama.mapped_tensors import MappedTensor, mapped_tensors
from vram_llm.llama.read_ahead import REQUEST_BYTES, DiskPart, ReadAhead
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.model.tensors import Role
from vram_llm.planner.disk.resident_weights import (
    HostWeights,
    ResidentShares,
    resident_shares,
    weights_on_host,
)
from vram_llm.planner.types import Plan
from vram_llm.units import MIB, format_bytes

_BLOCK_BYTES = 2 * MIB  # the kernel caches files in blocks of up to this size, and drops only whole ones
_LOCK_BYTES = 16 * MIB

log = logging.getLogger(__name__)


class WeightsOnDisk:
    """The mapped weights of a plan that reads from the disk. Call `close` before the model is freed."""

    def __init__(self, plan: Plan, model: int) -> None:
        """Lock what stays in memory, and begin to read the rest. Raises NotBuilt."""
        assert plan.context.resident_bytes is not None
        assert plan.disk_reads is not None
        weights = weights_on_host(profile(read_header(plan.model.path)), plan.placement)
        shares = resident_shares(weights, plan.context.resident_bytes)
        found = {tensor.name: tensor for tensor in mapped_tensors(model)}
        self._files = MappedFiles()
        kept: list[MappedPart] = []
        read: list[DiskPart] = []
        for each in weights:
            own, rest = self._parts(each, shares, found)
            kept += own
            read += (DiskPart(each.layer, part) for part in rest)
        # the pages that were read are dropped before the rest is locked, which needs the memory
        self._read_ahead = ReadAhead(read, plan.disk_reads.window_bytes) if read else None
        _lock(kept)

    def put_into(self, params: Any) -> None:
        """Let the context with these llama_context_params say which layer it computes."""
        if self._read_ahead is not None:
            self._read_ahead.put_into(params)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._read_ahead is not None:
            self._read_ahead.close()
        self._files.close()

    def _parts(
        self, weights: HostWeights, shares: ResidentShares, found: Mapping[str, MappedTensor]
    ) -> tuple[list[MappedPart], list[MappedPart]]:
        """The parts of a layer that stay in memory, and those whose reading does not depend on the token."""
        kept, read = [], []
        for tensor, n_bytes in shares.of(weights):
            mapped = found.get(tensor.name)
            if mapped is None:
                continue
            n_kept = self._aligned(mapped, n_bytes)
            kept.append((mapped.address, mapped.address + n_kept))
            if tensor.role is not Role.EXPERT:
                read.append((mapped.address + n_kept, mapped.address + mapped.n_bytes))
        return self._joined(kept), self._joined(read)

    def _aligned(self, tensor: MappedTensor, n_bytes: int) -> int:
        """`n_bytes` of a tensor, or somewhat fewer, so that the rest begins at a block of the file."""
        if n_bytes == tensor.n_bytes:
            return n_bytes
        offset = self._files.offset(tensor.address + n_bytes)
        return n_bytes if offset is None else max(n_bytes - offset % _BLOCK_BYTES, 0)

    def _joined(self, ranges: Iterable[tuple[int, int]]) -> list[MappedPart]:
        """Ranges of addresses as parts of the file, those without a page between them as one."""
        joined: list[tuple[int, int]] = []
        for start, end in ranges:
            if joined and 0 <= start - joined[-1][1] < mmap.PAGESIZE:
                joined[-1] = joined[-1][0], end
            elif end > start:
                joined.append((start, end))
        parts = (self._files.part(start, end - start) for start, end in joined)
        return [part for part in parts if part is not None]


def _lock(parts: Iterable[MappedPart]) -> None:
    """Read parts into memory and lock them there; if the system does not allow it, log that and go on."""
    raise_lock_limit()
    locked = 0
    for part in parts:
        for piece in part.pieces(_LOCK_BYTES):
            for request in piece.pieces(REQUEST_BYTES):
                request.will_need()
            try:
                piece.lock()
            except OSError as error:
                log.warning(
                    "only %s of the weights are locked in memory (%s); other programs may push the others "
                    "out: `ulimit -l unlimited`, or LimitMEMLOCK=infinity in a unit of systemd, allows more",
                    format_bytes(locked),
                    error.strerror,
                )
                return
            locked += piece.n_bytes
