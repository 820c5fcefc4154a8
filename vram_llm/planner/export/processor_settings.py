"""The use of the processor as llama-server's flags."""

from vram_llm.planner.export.setting import Setting
from vram_llm.planner.processor_use import AS_USUAL, ProcessorUse, ThreadPool


def processor_settings(use: ProcessorUse) -> tuple[Setting, ...]:
    """Settings that differ from llama.cpp's defaults. Prompts' pool is written if it is another one."""
    numa = () if use.numa is None else (Setting("--numa", use.numa.value, "LLAMA_ARG_NUMA"),)
    if not use.has_pools:
        return numa
    pools = _pool_settings(use.pool, AS_USUAL.pool, "")
    if use.batch_pool != use.pool:
        pools += _pool_settings(use.batch_pool, use.pool, "-batch")
    return (*numa, *pools)


def _pool_settings(pool: ThreadPool, usual: ThreadPool, suffix: str) -> tuple[Setting, ...]:
    given = (
        ("--cpu-mask", pool.mask, pool.cpus != usual.cpus),
        ("--cpu-strict", str(int(pool.strict)), pool.strict != usual.strict),
        ("--prio", str(pool.priority), pool.priority != usual.priority),
        ("--poll", str(pool.poll), pool.poll != usual.poll),
    )
    return tuple(Setting(flag + suffix, value, None) for flag, value, differs in given if differs)
