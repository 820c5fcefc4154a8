"""The options for llama.cpp's threads on the processor, with llama-server's flags."""

from collections.abc import Callable
from typing import Any

import click

from vram_llm.cli.plan_option import PlanOption, choice_of
from vram_llm.planner.processor_use import Numa, cpus_of_mask, cpus_of_range

_BATCH = "As {0}, for steps of several tokens.  [default: that of {0}]"


class CpuListType(click.ParamType[tuple[int, ...]]):
    """CPUs, as a mask or as a range."""

    name = "cpus"

    def __init__(self, parse: Callable[[str], tuple[int, ...]]) -> None:
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_MASK, _RANGE = CpuListType(cpus_of_mask), CpuListType(cpus_of_range)
_PRIORITY, _POLL = click.IntRange(-1, 3), click.IntRange(0, 100)

PROCESSOR_OPTIONS = (
    PlanOption(flags="--numa", fields=("processor.numa",), type=choice_of(Numa), to_field=Numa,
               has_default=False, help=(
        "Threads on a computer with several NUMA nodes: over all of them, on the node of the start, or where "
        "numactl allows."
    )),
    PlanOption(flags="--cpu-mask -C", fields=("processor.cpu_mask",), type=_MASK, metavar="HEX",
               has_default=False, help="CPUs that threads may use, as a hexadecimal number.  [default: all]"),
    PlanOption(flags="--cpu-range -Cr", fields=("processor.cpu_range",), type=_RANGE, metavar="LOW-HIGH",
               has_default=False, help="CPUs that threads may use, with those of --cpu-mask."),
    PlanOption(flags="--cpu-strict", fields=("processor.cpu_strict",), type=click.BOOL, metavar="SWITCH",
               help="Whether each thread has one CPU of the mask or range for itself."),
    PlanOption(flags="--prio", fields=("processor.priority",), type=_PRIORITY, metavar="N", help=(
        "Priority of threads: -1 low, 0 normal, 1 medium, 2 high, 3 realtime; above 0 the system has to "
        "allow it."
    )),
    PlanOption(flags="--poll", fields=("processor.poll",), type=_POLL, metavar="N", help=(
        "How long threads wait busily for work: 0 not at all, 100 longest; for a llama.cpp without OpenMP."
    )),
    PlanOption(flags="--cpu-mask-batch -Cb", fields=("processor.cpu_mask_batch",), type=_MASK, metavar="HEX",
               has_default=False, help=_BATCH.format("--cpu-mask")),
    PlanOption(flags="--cpu-range-batch -Crb", fields=("processor.cpu_range_batch",), type=_RANGE,
               metavar="LOW-HIGH", has_default=False, help=_BATCH.format("--cpu-range")),
    PlanOption(flags="--cpu-strict-batch", fields=("processor.cpu_strict_batch",), type=click.BOOL,
               metavar="SWITCH", has_default=False, help=_BATCH.format("--cpu-strict")),
    PlanOption(flags="--prio-batch", fields=("processor.priority_batch",), type=_PRIORITY, metavar="N",
               has_default=False, help=_BATCH.format("--prio")),
    PlanOption(flags="--poll-batch", fields=("processor.poll_batch",), type=_POLL, metavar="N",
               has_default=False, help=_BATCH.format("--poll")),
    PlanOption(flags="--mlock", fields=("mlock",), is_flag=True, help=(
        "Lock the weights that are on the host in memory, so that the system never swaps them out. The file "
        "is then read, not mapped, unless --mmap is given."
    )),
    PlanOption(flags="--repack/--no-repack", fields=("repack",), help=(
        "Let llama.cpp repack weights on the host for quicker kernels of the processor."
    )),
    PlanOption(flags="--no-host", fields=("no_host",), is_flag=True, help=(
        "Keep the host's weights out of pinned memory, which cards copy from fastest: then they may be "
        "repacked for the processor."
    )),
)  # fmt: skip
