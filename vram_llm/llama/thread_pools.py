"""llama.cpp's threads on chosen CPUs, with a priority: `llama_attach_threadpool` of llama.h."""

import ctypes
import os

from vram_llm.errors import BadPlan, NotBuilt
from vram_llm.llama import bindings as b
from vram_llm.llama.bindings import C
from vram_llm.planner.processor_use import MAX_CPUS, Numa, ProcessorUse, ThreadPool
from vram_llm.planner.types import Context

_NUMA = {Numa.DISTRIBUTE: 1, Numa.ISOLATE: 2, Numa.NUMACTL: 3}  # ggml_numa_strategy
_REALTIME = {1: 40, 2: 80, 3: 90}  # of SCHED_FIFO: ggml_thread_apply_priority in ggml-cpu.c


class _PoolParams(ctypes.Structure):
    """ggml_threadpool_params of ggml.h."""

    _fields_ = [
        ("cpumask", ctypes.c_bool * MAX_CPUS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    ]


_init_params = b.declare("ggml_threadpool_params_init", None, ctypes.POINTER(_PoolParams), ctypes.c_int)
_new_pool = b.declare("ggml_threadpool_new", b.Pointer, ctypes.POINTER(_PoolParams))
_free_pool = b.declare("ggml_threadpool_free", None, b.Pointer)
_attach = b.declare("llama_attach_threadpool", None, b.Pointer, b.Pointer, b.Pointer)

_numa_is_set = False


def use_numa(numa: Numa | None) -> None:
    """Set llama.cpp's NUMA strategy, before a model is loaded; the first one of a process stays."""
    global _numa_is_set
    if numa is not None and not _numa_is_set:
        C.llama_numa_init(_NUMA[numa])
        _numa_is_set = True


class ThreadPools:
    """The pools of contexts that compute one after the other. Call `close` after the contexts are freed."""

    def __init__(self, ctx: int, context: Context) -> None:
        """Attach the pools that `context` asks for; none if they are as llama.cpp's own.

        Raises BadPlan if the system does not allow them, NotBuilt if this llama.cpp cannot make them.
        """
        self._pools: list[int] = []
        self._attached: tuple[int, int | None] | None = None  # for steps of one token, and of several
        if not context.processor.has_pools:
            return
        if _new_pool is None:
            raise NotBuilt(
                "this llama.cpp loads its CPU back end at run time, where threads get no CPUs or priorities: "
                "leave --cpu-mask, --cpu-range, --cpu-strict, --prio and --poll out"
            )
        one, several = context.processor.pool, context.processor.batch_pool
        _check(context.processor)
        n_batch = context.n_threads_batch or context.n_threads
        is_shared = one == several and n_batch == context.n_threads
        batch = None if is_shared else self._make(several, n_batch, is_paused=False)
        self._attached = self._make(one, context.n_threads, is_paused=not is_shared), batch
        self.attach(ctx)

    def attach(self, ctx: int) -> None:
        """Let another context compute with them, if there are any."""
        if self._attached is not None:
            _attach(ctx, *self._attached)

    def _make(self, pool: ThreadPool, n_threads: int, *, is_paused: bool) -> int:
        params = _PoolParams()
        _init_params(params, n_threads)
        for cpu in pool.cpus:
            params.cpumask[cpu] = True
        params.prio, params.poll = pool.priority, pool.poll
        params.strict_cpu, params.paused = pool.strict, is_paused
        made = _new_pool(params)
        if not made:
            raise BadPlan(f"llama.cpp makes no pool of {n_threads} threads")
        self._pools.append(made)
        return int(made)

    def close(self) -> None:
        """Free the pools. Once only."""
        for pool in self._pools:
            _free_pool(pool)
        self._pools = []


def _check(use: ProcessorUse) -> None:
    """Raises BadPlan for CPUs and priorities that llama.cpp's threads would only warn about."""
    for pool in (use.pool, use.batch_pool):
        if pool.cpus and hasattr(os, "sched_getaffinity"):
            allowed = os.sched_getaffinity(0)
            if not allowed & set(pool.cpus):
                raise BadPlan(
                    f"no CPU of the mask {pool.mask} may be used here: this process has {_listed(allowed)}"
                )
        if pool.priority > 0 and not _may_have(pool.priority):
            raise BadPlan(
                f"--prio {pool.priority} is not allowed here: give the process CAP_SYS_NICE, or raise "
                f"RLIMIT_RTPRIO to {_REALTIME[pool.priority]}"
            )


def _may_have(priority: int) -> bool:
    """Whether threads may have a priority above normal: it is tried for an instant."""
    if not hasattr(os, "sched_setscheduler"):
        return True
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REALTIME[priority]))
    except OSError:
        return False
    os.sched_setscheduler(0, *before)
    return True


def _listed(cpus: set[int]) -> str:
    return ", ".join(map(str, sorted(cpus)[:16])) + (", ..." if len(cpus) > 16 else "")
