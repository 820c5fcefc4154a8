"""Parse descriptions of what-if hosts: computers to plan for that are not this one.

host = [PROCESSOR ["with"]] RAM ["," DISK]
RAM  = [COUNT "x"] SIZE [KIND ["-" RATE]] [N "ch"] ["@" BANDWIDTH]

"64GiB DDR4-3200 2ch"                memory alone
"2x32GB DDR5-6000"                   two modules, and so at most two channels
"64GiB@80GB/s"                       memory and its bandwidth
"Ryzen 9 7950X with 64GiB"           a processor, whose kind of memory and channels are in the catalog
"16 cores, 64GiB DDR5-6000, 7GB/s"   a processor by its cores, and a disk

GB of memory means GiB, as makers write it. Rates of memory are in MT/s. Bandwidths are decimal.
"""

import re
from dataclasses import dataclass, replace

from vram_llm.errors import BadHost
from vram_llm.machine import processors
from vram_llm.machine.memory_kinds import GENERATIONS, MemoryKind, parse_memory_kind
from vram_llm.machine.processors import Processor
from vram_llm.machine.types import Fact, Host, Source
from vram_llm.text.names import short_name
from vram_llm.units import GIB, format_bytes, parse_bytes, parse_bytes_per_s

RAM_EXAMPLES = '64GiB, "64GiB DDR5-6000 2ch" or 64GiB@80GB/s'
ASSUMED_CORES = 8
ASSUMED_CHANNELS = 2
_MAX_CHARACTERS = 200
_MAX_SOCKETS = 8
_MAX_CORES = 1024
_MAX_BYTES = 64 * 1024 * GIB
_PROGRAMS_BYTES = 3 * GIB
_BYTES_PER_PAGE_TABLE_BYTE = 64  # the kernel's table has 64 bytes for each page of 4 KiB

_SIZE = r"\d+(?:\.\d+)?\s*(?:g|t|[gmt]i?b)\b(?!/)"
_MEMORY = re.compile(rf"(?:(\d+)\s*[x×*]\s*)?({_SIZE})(.*)", re.IGNORECASE)
_MEMORY_START = re.compile(rf"(?<![\w.])(?:\d+\s*[x×*]\s*)?{_SIZE}", re.IGNORECASE)
_MAKERS_UNIT = re.compile(r"(?<=[gmt])b", re.IGNORECASE)
_DISK = re.compile(r"(?:disk|ssd|nvme|hdd)?\s*([\d.]+\s*[kmgt]i?b/s)\s*(?:disk|ssd|nvme|hdd)?", re.IGNORECASE)
_CORES = re.compile(
    r"(\d+)[ -]*(?:cores?|c)(?:\s*[,/]?\s*(\d+)[ -]*(?:threads?|t))?((?:\s+(?:avx-?512|avx-?2|amx))*)",
    re.IGNORECASE,
)
_SOCKETS = re.compile(r"(\d+)\s*[x×*]\s*(\D.*|\d{3,}.*)", re.IGNORECASE)
_JOINING = re.compile(r"(?:,|\bwith|\band|\+)\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDescription:
    """A user's description of a computer, by parts. None: not described."""

    ram: str | None = None  # "64GiB DDR5-6000 2ch"
    cpu: str | None = None  # "Ryzen 9 7950X"
    disk: str | None = None  # "7GB/s"

    def __add__(self, other: "HostDescription") -> "HostDescription":
        """The parts of both. Raises BadHost if both describe the same part."""
        for field in ("ram", "cpu", "disk"):
            first, second = getattr(self, field), getattr(other, field)
            if first is not None and second is not None:
                raise BadHost(f"the host is described by {first!r} and by {second!r}; give one of them")
        return HostDescription(
            ram=self.ram or other.ram, cpu=self.cpu or other.cpu, disk=self.disk or other.disk
        )


NO_DESCRIPTION = HostDescription()


@dataclass(frozen=True, slots=True)
class WhatIfHost:
    """A host that is not this computer, and notes on assumptions about it."""

    host: Host
    pcie_generation: int | None  # of the processor's slots; None: unknown
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """The described memory. None: not described."""

    total_bytes: int
    kind: MemoryKind
    bandwidth_bytes_per_s: float | None
    modules: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cpu:
    """The described processors."""

    cores: int  # of all sockets together
    threads: int  # of all sockets together
    sockets: int = 1
    processor: Processor | None = None
    instructions: tuple[str, ...] | None = None


def parse_description(text: str) -> HostDescription:
    """The parts of "Ryzen 9 7950X, 64GiB DDR5-6000 2ch, 7GB/s". Raises BadHost if a part is given twice."""
    if len(text) > _MAX_CHARACTERS:
        raise BadHost(f"a host of {len(text)} characters is too long; write it like {RAM_EXAMPLES}")
    ram, cpu, disk = [], [], []
    for part in (part.strip() for part in text.split(",")):
        start = _MEMORY_START.search(part)
        if _DISK.fullmatch(part):
            disk.append(part)
        elif start is not None:
            ram.append(part[start.start() :])
            cpu += [before] if (before := _JOINING.sub("", part[: start.start()]).strip()) else []
        elif ram and _is_memory_kind(part):
            ram[-1] += f" {part}"
        else:
            cpu.append(part)
    for name, parts in (("memory", ram), ("processor", cpu), ("disk", disk)):
        if len(parts) > 1:
            raise BadHost(f"{text!r}: {parts[0]!r} and {parts[1]!r} are both taken for the {name}; give one")
    return HostDescription(
        ram=ram[0] if ram else None, cpu=cpu[0] if cpu else None, disk=disk[0] if disk else None
    )


def parse_host(description: HostDescription, graphics: str | None = None) -> WhatIfHost:
    """The host that `description` describes.

    If it names no processor, the host has the processor whose graphics are `graphics`, a card of the catalog.
    Raises BadHost for a bad description, and UnknownDevice for a processor that is not in the catalog.
    """
    if description.ram is None:
        raise BadHost(f"the host lacks the size of its memory; write it like {RAM_EXAMPLES}")
    memory = _parse_memory(description.ram)
    cpu = None
    if description.cpu is not None:
        cpu = _parse_cpu(description.cpu, memory.total_bytes)
    elif graphics is not None:
        processor = processors.processor_with_graphics(graphics, round(memory.total_bytes / GIB))
        if processor is not None:
            cpu = _Cpu(cores=processor.cores, threads=processor.threads, processor=processor)
    kind, assumptions = _complete_kind(description.ram, memory, cpu)
    is_assumed = bool(assumptions)
    if cpu is None:
        assumptions.append(f"{ASSUMED_CORES} cores")
        cpu = _Cpu(cores=ASSUMED_CORES, threads=ASSUMED_CORES)
    processor = cpu.processor
    bandwidth = _bandwidth(memory, kind, cpu, is_assumed=is_assumed)
    host = Host(
        name=_name(memory, kind, processor, description),
        cores=cpu.threads,
        total_bytes=memory.total_bytes,
        available_bytes=available_bytes(memory.total_bytes),
        cpu_name=None if processor is None else processor.name,
        bandwidth_bytes_per_s=bandwidth,
        physical_cores=cpu.cores,
        numa_nodes=cpu.sockets,
        instructions=cpu.instructions if processor is None else processor.instructions,
        memory_kind=str(kind) or None,
        disk_bytes_per_s=None if description.disk is None else parse_disk(description.disk),
        what_if=True,
    )
    pcie_generation = None if processor is None else processor.pcie_generation
    return WhatIfHost(host, pcie_generation, _notes(host, assumptions))


def parse_disk(text: str) -> Fact:
    """The bytes per second of a disk's reads: "7GB/s", "NVMe 7GB/s". Raises BadHost."""
    match = _DISK.fullmatch(text.strip()[:_MAX_CHARACTERS])
    try:
        bytes_per_s = 0.0 if match is None else parse_bytes_per_s(match[1])
    except ValueError:
        bytes_per_s = 0.0
    if not 0 < bytes_per_s < 1e12:
        raise BadHost(
            f"{text[:_MAX_CHARACTERS]!r} is not the speed of a disk; write it like 7GB/s or 550MB/s"
        )
    return Fact(bytes_per_s, Source.GIVEN)


def available_bytes(total_bytes: int) -> int:
    """The memory that a computer of `total_bytes` has for a model.

    Linux uses a 64th for its table of pages. The system's programs, with a desktop, use about 3 GiB.
    """
    return max(total_bytes - total_bytes // _BYTES_PER_PAGE_TABLE_BYTE - _PROGRAMS_BYTES, 0)


def _parse_memory(text: str) -> _Memory:
    """Parse the description of memory. Raises BadHost."""

    def refuse(reason: str) -> BadHost:
        return BadHost(f"{text[:_MAX_CHARACTERS]!r}: {reason}; write memory like {RAM_EXAMPLES}")

    size_and_kind, *bandwidths = (part.strip() for part in text[:_MAX_CHARACTERS].split("@"))
    match = _MEMORY.fullmatch(size_and_kind)
    if match is None or len(bandwidths) > 1:
        raise refuse("this is not a size of memory" if match is None else "more than one bandwidth is given")
    modules = int(match[1][:4]) if match[1] else None
    try:
        size = parse_bytes(_MAKERS_UNIT.sub("ib", match[2]))
        kind = parse_memory_kind(match[3])
        bandwidth = parse_bytes_per_s(bandwidths[0]) if bandwidths else None
    except (ValueError, OverflowError) as error:
        raise refuse(str(error)) from None
    total_bytes = size * (1 if modules is None else modules)
    if not GIB // 2 <= total_bytes <= _MAX_BYTES:
        raise refuse(
            f"a computer has from 512 MiB to {format_bytes(_MAX_BYTES)}, not {format_bytes(total_bytes)}"
        )
    if bandwidth is not None and not 1e8 <= bandwidth <= 1e14:
        raise refuse(f"{bandwidths[0]} is not a bandwidth of memory")
    return _Memory(total_bytes=total_bytes, kind=kind, bandwidth_bytes_per_s=bandwidth, modules=modules)


def _parse_cpu(text: str, memory_bytes: int) -> _Cpu:
    """Parse the description of processors, by cores or by name.

    Raises BadHost, and UnknownDevice for a name that is not in the catalog.
    """
    text = text.strip()
    if (match := _CORES.fullmatch(text)) is not None:
        cores, threads = int(match[1][:6]), int((match[2] or match[1])[:6])
        if not 0 < cores <= _MAX_CORES or not cores <= threads <= 8 * cores:
            raise BadHost(
                f"{text!r} is not a processor: from 1 to {_MAX_CORES} cores, each of 1 to 8 threads"
            )
        instructions = tuple(word.lower().replace("-", "") for word in match[3].split()) or None
        return _Cpu(cores=cores, threads=threads, instructions=instructions)
    match, sockets = _SOCKETS.fullmatch(text), 1
    if match is not None:
        sockets, text = int(match[1][:4]), match[2]
        if not 0 < sockets <= _MAX_SOCKETS:
            raise BadHost(f"{text!r}: a computer has from 1 to {_MAX_SOCKETS} processors, not {sockets}")
    processor = processors.find_processor(text, memory_bytes / GIB)
    return _Cpu(
        cores=sockets * processor.cores,
        threads=sockets * processor.threads,
        sockets=sockets,
        processor=processor,
    )


def _complete_kind(text: str, memory: _Memory, cpu: _Cpu | None) -> tuple[MemoryKind, list[str]]:
    """The kind of memory, completed from the catalog's processor or by assumptions, and the assumptions.

    `text` is the description in errors. Raises BadHost if the processor does not support the kind.
    """
    kind, processor = memory.kind, cpu.processor if cpu else None
    assumptions: list[str] = []
    supported = None
    if processor is not None and cpu is not None:
        by_generation = {supported_kind.generation: supported_kind for supported_kind in processor.memory}
        supported = by_generation.get(kind.generation) if kind.generation else processor.memory[0]
        if supported is None:
            generations = " or ".join(name for name in by_generation if name)
            raise BadHost(
                f"{text!r}: {processor.name} takes {generations}, not {kind.generation}; "
                "leave one of them out"
            )
        max_channels = processor.channels * cpu.sockets if processor.channels else None
        if kind.channels and max_channels and kind.channels > max_channels:
            raise BadHost(
                f"{text!r}: {processor.name} has {max_channels} channels of memory, not {kind.channels:g}"
            )
        kind = replace(kind, generation=supported.generation, rate_mts=kind.rate_mts or supported.rate_mts)
        if kind.channels is None and max_channels:
            kind = replace(kind, channels=min(memory.modules or max_channels, max_channels))
    is_unknown = supported is None and not (kind.generation or kind.rate_mts)
    if memory.bandwidth_bytes_per_s is not None or is_unknown:
        return kind, assumptions
    if kind.rate_mts is None and kind.generation is not None:
        kind = replace(kind, rate_mts=GENERATIONS[kind.generation][0])
        assumptions.append(f"{kind.generation}-{kind.rate_mts}")
    if kind.channels is None and (processor is None or processor.bandwidth_bytes_per_s is None):
        kind = replace(kind, channels=min(memory.modules or ASSUMED_CHANNELS, ASSUMED_CHANNELS))
        if memory.modules is None or memory.modules > ASSUMED_CHANNELS:
            assumptions.append(f"{ASSUMED_CHANNELS} channels")
    return kind, assumptions


def _bandwidth(memory: _Memory, kind: MemoryKind, cpu: _Cpu, *, is_assumed: bool) -> Fact | None:
    """The described bandwidth, else the catalog's of soldered memory, else by the rule of memory_kinds.py.

    `kind` is the completed kind of memory; `is_assumed` is whether a part of it is an assumption.
    """
    if memory.bandwidth_bytes_per_s is not None:
        return Fact(memory.bandwidth_bytes_per_s, Source.GIVEN)
    processor, described = cpu.processor, memory.kind
    soldered = None if processor is None else processor.bandwidth_bytes_per_s
    if soldered is not None and described.bytes_per_s is None:
        return Fact(soldered, Source.CATALOG)
    if kind.bytes_per_s is None:
        return None
    source = Source.GIVEN if described.bytes_per_s is not None else Source.CATALOG
    return Fact(kind.bytes_per_s, Source.ASSUMED if is_assumed else source)


def _name(
    memory: _Memory, kind: MemoryKind, processor: Processor | None, description: HostDescription
) -> str:
    """The host's name, like "Ryzen 9 7950X, 64 GiB DDR5-5200 2ch"."""
    ram = f"{memory.total_bytes / GIB:.4g} GiB {kind}".strip()
    if memory.bandwidth_bytes_per_s is not None:
        ram += f" {memory.bandwidth_bytes_per_s / 1e9:.4g} GB/s"
    if processor is None:
        return ram if description.cpu is None else f"{description.cpu}, {ram}"
    sockets = _SOCKETS.fullmatch(description.cpu or "")
    return f"{f'{sockets[1]}x ' if sockets else ''}{short_name(processor.name)}, {ram}"


def _notes(host: Host, assumptions: list[str]) -> tuple[str, ...]:
    in_use, total = format_bytes(host.in_use_bytes), format_bytes(host.total_bytes)
    notes = [f"of the host's {total}, {in_use} are left to the kernel and the system's programs"]
    if assumptions:
        *first, last = assumptions
        listed = f"{', '.join(first)} and {last}" if first else last
        notes.append(f"{listed} are assumed of the host; --ram {RAM_EXAMPLES} and --cpu say otherwise")
    return tuple(notes)


def _is_memory_kind(text: str) -> bool:
    try:
        parse_memory_kind(text)
    except ValueError:
        return False
    return True
