"""Times of single operations on the host: which number of threads is best, and how fast each type is.

Cases take turns until the time is up, and the lower quartile of each counts: other programs only add time.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

from vram_llm.llama.measure.calibrate_wire import MORE_ROWS, PROMPT_ROWS, HostTimes, OperationTime
from vram_llm.llama.measure.ggml_graphs import CpuBackend, Graph, can_run

TYPES = (
    "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XXS", "IQ1_M", "MXFP4",
)  # fmt: skip
USUAL = "Q4_K"
_MOST_BYTES, _LEAST_BYTES = 2**30, 96 * 2**20
_SHARE_OF_FREE = 0.1
_CELLS = 4096
_LEAST_ROUNDS, _PATIENCE = 3, 3.0
_THREADS_S = 0.15  # for each number of threads
_WORTH_A_THREAD = 0.98  # of the time of fewer threads


class _Case(NamedTuple):
    type: str
    rows: int
    graph: Graph


def host_times(
    candidates: tuple[int, ...], free_bytes: int, seconds: float, on_progress: Callable[[float], None]
) -> HostTimes | None:
    """Times of all types with the best of `candidates`, numbers of threads; None if ggml cannot be asked."""
    if not can_run():
        return None
    with ExitStack() as stack:
        on = stack.enter_context(closing(CpuBackend(_weight_bytes(free_bytes))))

        def made(graph: Graph) -> Graph:
            return stack.enter_context(closing(graph))

        threads = _best_threads(on, made(Graph.matrices(on, USUAL, 1, on.n_bytes)), candidates)
        cases = [_Case(USUAL, 0, made(Graph.experts(on, USUAL, on.n_bytes)))]
        cases.append(_Case("F16", 0, made(Graph.attention(_CELLS))))
        for name in TYPES:
            for rows, n_bytes in ((1, on.n_bytes), (MORE_ROWS, on.n_bytes // 8), (PROMPT_ROWS, 0)):
                cases.append(_Case(name, rows, made(Graph.matrices(on, name, rows, n_bytes))))
        times = list(_rounds(on, threads, cases, seconds, on_progress))
        experts, attention, *matrices = (
            OperationTime(case.type, case.rows, case.graph.n_bytes, case.graph.products, found)
            for case, found in zip(cases, times, strict=True)
        )
    return HostTimes(threads, tuple(matrices), experts, attention)


def _weight_bytes(free_bytes: int) -> int:
    """More than the caches hold, and a small part of the free memory."""
    wanted = min(max(4 * _cache_bytes(), _LEAST_BYTES), _MOST_BYTES)
    return int(max(min(wanted, _SHARE_OF_FREE * free_bytes), _LEAST_BYTES))


def _cache_bytes() -> int:
    """Bytes of one last-level cache; 0 if unknown."""
    names = ("SC_LEVEL4_CACHE_SIZE", "SC_LEVEL3_CACHE_SIZE")
    return max((os.sysconf(name) for name in names if name in os.sysconf_names), default=0)


def _best_threads(on: CpuBackend, graph: Graph, candidates: tuple[int, ...]) -> int:
    best, least = candidates[0], float("inf")
    for threads in candidates:
        found: list[float] = []
        began = time.perf_counter()
        while len(found) < _LEAST_ROUNDS or time.perf_counter() - began < _THREADS_S:
            found.append(on.run_s(graph, threads))
        seconds = _lower_quartile(found[1:])
        if seconds < least * _WORTH_A_THREAD:
            best, least = threads, seconds
    return best


def _rounds(
    on: CpuBackend, threads: int, cases: list[_Case], seconds: float, on_progress: Callable[[float], None]
) -> Iterator[float]:
    """Run the cases in turns for `seconds`, at least a few times unless that takes much longer."""
    times: list[list[float]] = [[] for _ in cases]
    took = 0.0
    for n in itertools.count(1):
        began = time.perf_counter()
        for case, found in zip(cases, times, strict=True):
            if n == 1:
                on.run_s(case.graph, threads)  # the first run touches the memory
            found.append(on.run_s(case.graph, threads))
            on_progress(min(max(took / seconds, 0.01), 1.0))
        took += time.perf_counter() - began
        if took * (n + 1) / n > seconds and (n >= _LEAST_ROUNDS or took > _PATIENCE * seconds):
            break
    return map(_lower_quartile, times)


def _lower_quartile(times: list[float]) -> float:
    return statistics.quantiles(times, n=4, method="inclusive")[0] if len(times) > 1 else times[0]
