"""Parse descriptions of what-if hosts: computers to plan for that are not this one.

host = [PROCESSOR ["with"]] RAM ["," DISK]
RAM  = [COUNT "x"] SIZE [KIND ["-" RATE]] [N "ch"] ["@" BANDWIDTH]

"64GiB DDR4-3200 2ch"                memory alone
"2x32GB DDR5-6000"                   two modules, so at most two channels
"64GiB@80GB/s"                       memory and its bandwidth
"Ryzen 9 7950X with 64GiB"           the processor's own kind of memory and channels
"16 cores, 64GiB DDR5-6000, 7GB/s"   a processor by its cores, and a disk

GB of memory is GiB here, as makers write it. Rates of memory are in MT/s, bandwidths are decimal.
"""

import re
from dataclasses import dataclass, replace

from vram_llm.errors import BadHost
from vram_llm.machine import processors
from vram_llm.machine.memory_kinds import GENERATIONS, MemoryKind, parse_kind
from vram_llm.machine.processors import Processor
from vram_llm.machine.types import Fact, Host, Source
from vram_llm.text.names import short_name
from vram_llm.units import GIB, format_bytes, parse_bytes, parse_bytes_per_s

RAM_EXAMPLES = '64GiB, "64GiB DDR5-6000 2ch" or 64GiB@80GB/s'
ASSUMED_CORES = 8
ASSUMED_CHANNELS = 2
_LONGEST = 200
_MOST_SOCKETS = 8
_MOST_CORES = 1024
_LARGEST_BYTES = 64 * 1024 * GIB
_PROGRAMS_BYTES = 3 * GIB
_PAGE_TABLE_SHARE = 64  # the kernel's table has 64 bytes for each page of 4 KiB: a 64th

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
class HostWords:
    """What a user says of a computer; None: nothing."""

    ram: str | None = None
    cpu: str | None = None
    disk: str | None = None

    def __add__(self, other: "HostWords") -> "HostWords":
        """Both together. Raises BadHost if they say two things of the same part."""
        for field in ("ram", "cpu", "disk"):
            first, second = getattr(self, field), getattr(other, field)
            if first is not None and second is not None:
                raise BadHost(f"the host is described by {first!r} and by {second!r}; give one of them")
        return HostWords(ram=self.ram or other.ram, cpu=self.cpu or other.cpu, disk=self.disk or other.disk)


NO_WORDS = HostWords()


@dataclass(frozen=True, slots=True)
class WhatIfHost:
    """A host that is not this computer, and notes on what is assumed of it."""

    host: Host
    pcie_generation: int | None  # of the processor's slots; None: unknown
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    total_bytes: int
    kind: MemoryKind
    bandwidth_bytes_per_s: float | None
    modules: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cpu:
    """Cores of all sockets together."""

    cores: int
    threads: int
    sockets: int = 1
    processor: Processor | None = None
    instructions: tuple[str, ...] | None = None


def split_words(text: str) -> HostWords:
    """The parts of "Ryzen 9 7950X, 64GiB DDR5-6000 2ch, 7GB/s". Raises BadHost if there are two of a kind."""
    if len(text) > _LONGEST:
        raise BadHost(f"a host of {len(text)} characters is too long; write it like {RAM_EXAMPLES}")
    ram, cpu, disk = [], [], []
    for part in (part.strip() for part in text.split(",")):
        start = _MEMORY_START.search(part)
        if _DISK.fullmatch(part):
            disk.append(part)
        elif start is not None:
            ram.append(part[start.start() :])
            cpu += [before] if (before := _JOINING.sub("", part[: start.start()]).strip()) else []
        elif ram and _is_kind(part):
            ram[-1] += f" {part}"
        else:
            cpu.append(part)
    for name, found in (("memory", ram), ("processor", cpu), ("disk", disk)):
        if len(found) > 1:
            raise BadHost(f"{text!r}: {found[0]!r} and {found[1]!r} are both taken for the {name}; give one")
    return HostWords(**{k: v[0] if v else None for k, v in (("ram", ram), ("cpu", cpu), ("disk", disk))})


def parse_host(words: HostWords, graphics: str | None = None) -> WhatIfHost:
    """The host that `words` describe.

    If they name no processor, it is the one that `graphics`, a card of the catalog, are a part of. Raises
    BadHost, and UnknownDevice for a processor that is not in the catalog.
    """
    if words.ram is None:
        raise BadHost(f"the host lacks the size of its memory; write it like {RAM_EXAMPLES}")
    memory = _memory(words.ram)
    cpu = None
    if words.cpu is not None:
        cpu = _cpu(words.cpu, memory.total_bytes)
    elif graphics is not None:
        made = processors.with_graphics(graphics, round(memory.total_bytes / GIB))
        cpu = None if made is None else _Cpu(cores=made.cores, threads=made.threads, processor=made)
    kind, assumptions = _complete(words.ram, memory, cpu)
    is_assumed = bool(assumptions)
    if cpu is None:
        assumptions.append(f"{ASSUMED_CORES} cores")
        cpu = _Cpu(cores=ASSUMED_CORES, threads=ASSUMED_CORES)
    processor = cpu.processor
    bandwidth = _bandwidth(memory, kind, cpu, is_assumed=is_assumed)
    host = Host(
        name=_name(memory, kind, processor, words),
        cores=cpu.threads,
        total_bytes=memory.total_bytes,
        available_bytes=available_bytes(memory.total_bytes),
        cpu_name=None if processor is None else processor.name,
        bandwidth_bytes_per_s=bandwidth,
        physical_cores=cpu.cores,
        numa_nodes=cpu.sockets,
        instructions=cpu.instructions if processor is None else processor.instructions,
        memory_kind=str(kind) or None,
        disk_bytes_per_s=None if words.disk is None else parse_disk(words.disk),
        what_if=True,
    )
    return WhatIfHost(
        host, None if processor is None else processor.pcie_generation, _notes(host, assumptions)
    )


def parse_disk(text: str) -> Fact:
    """The bytes per second that a disk reads: "7GB/s", "NVMe 7GB/s". Raises BadHost."""
    match = _DISK.fullmatch(text.strip()[:_LONGEST])
    try:
        rate = 0.0 if match is None else parse_bytes_per_s(match[1])
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e12:
        raise BadHost(f"{text[:_LONGEST]!r} is not the speed of a disk; write it like 7GB/s or 550MB/s")
    return Fact(rate, Source.GIVEN)


def available_bytes(total_bytes: int) -> int:
    """Memory that a computer of `total_bytes` has for a model.

    Linux keeps a 64th for its table of pages, and the system's programs with a desktop hold about 3 GiB.
    """
    return max(total_bytes - total_bytes // _PAGE_TABLE_SHARE - _PROGRAMS_BYTES, 0)


def _memory(text: str) -> _Memory:
    def refuse(reason: str) -> BadHost:
        return BadHost(f"{text[:_LONGEST]!r}: {reason}; write memory like {RAM_EXAMPLES}")

    body, *given = (part.strip() for part in text[:_LONGEST].split("@"))
    match = _MEMORY.fullmatch(body)
    if match is None or len(given) > 1:
        raise refuse("this is not a size of memory" if match is None else "more than one bandwidth is given")
    modules = int(match[1][:4]) if match[1] else None
    try:
        size = parse_bytes(_MAKERS_UNIT.sub("ib", match[2]))
        kind = parse_kind(match[3])
        bandwidth = parse_bytes_per_s(given[0]) if given else None
    except (ValueError, OverflowError) as error:
        raise refuse(str(error)) from None
    total = size * (1 if modules is None else modules)
    if not GIB // 2 <= total <= _LARGEST_BYTES:
        raise refuse(
            f"a computer has from 512 MiB to {format_bytes(_LARGEST_BYTES)}, not {format_bytes(total)}"
        )
    if bandwidth is not None and not 1e8 <= bandwidth <= 1e14:
        raise refuse(f"{given[0]} is not a bandwidth of memory")
    return _Memory(total_bytes=total, kind=kind, bandwidth_bytes_per_s=bandwidth, modules=modules)


def _cpu(text: str, memory_bytes: int) -> _Cpu:
    text = text.strip()
    if (match := _CORES.fullmatch(text)) is not None:
        cores, threads = int(match[1][:6]), int((match[2] or match[1])[:6])
        if not 0 < cores <= _MOST_CORES or not cores <= threads <= 8 * cores:
            raise BadHost(
                f"{text!r} is not a processor: from 1 to {_MOST_CORES} cores, each of 1 to 8 threads"
            )
        named = tuple(word.lower().replace("-", "") for word in match[3].split()) or None
        return _Cpu(cores=cores, threads=threads, instructions=named)
    match, sockets = _SOCKETS.fullmatch(text), 1
    if match is not None:
        sockets, text = int(match[1][:4]), match[2]
        if not 0 < sockets <= _MOST_SOCKETS:
            raise BadHost(f"{text!r}: a computer has from 1 to {_MOST_SOCKETS} processors, not {sockets}")
    made = processors.find(text, memory_bytes / GIB)
    return _Cpu(cores=sockets * made.cores, threads=sockets * made.threads, sockets=sockets, processor=made)


def _complete(text: str, memory: _Memory, cpu: _Cpu | None) -> tuple[MemoryKind, list[str]]:
    """The kind of memory with the processor's figures for what is not given, and what is assumed of it."""
    kind, made = memory.kind, cpu.processor if cpu else None
    assumptions: list[str] = []
    own = None
    if made is not None and cpu is not None:
        names = {each.generation: each for each in made.memory}
        own = names.get(kind.generation) if kind.generation else made.memory[0]
        if own is None:
            takes = " or ".join(name for name in names if name)
            raise BadHost(
                f"{text!r}: {made.name} takes {takes}, not {kind.generation}; leave one of them out"
            )
        most = made.channels * cpu.sockets if made.channels else None
        if kind.channels and most and kind.channels > most:
            raise BadHost(f"{text!r}: {made.name} has {most} channels of memory, not {kind.channels:g}")
        kind = replace(kind, generation=own.generation, rate_mts=kind.rate_mts or own.rate_mts)
        if kind.channels is None and most:
            kind = replace(kind, channels=min(memory.modules or most, most))
    if memory.bandwidth_bytes_per_s is not None or (own is None and not (kind.generation or kind.rate_mts)):
        return kind, assumptions
    if kind.rate_mts is None and kind.generation is not None:
        kind = replace(kind, rate_mts=GENERATIONS[kind.generation][0])
        assumptions.append(f"{kind.generation}-{kind.rate_mts}")
    if kind.channels is None and (made is None or made.bandwidth_bytes_per_s is None):
        kind = replace(kind, channels=min(memory.modules or ASSUMED_CHANNELS, ASSUMED_CHANNELS))
        if memory.modules is None or memory.modules > ASSUMED_CHANNELS:
            assumptions.append(f"{ASSUMED_CHANNELS} channels")
    return kind, assumptions


def _bandwidth(memory: _Memory, kind: MemoryKind, cpu: _Cpu, *, is_assumed: bool) -> Fact | None:
    """The memory's bandwidth as given, as its maker says it, or by the rule of memory_kinds.py."""
    if memory.bandwidth_bytes_per_s is not None:
        return Fact(memory.bandwidth_bytes_per_s, Source.GIVEN)
    made, given = cpu.processor, memory.kind
    if made is not None and made.bandwidth_bytes_per_s is not None and given.bytes_per_s is None:
        return Fact(made.bandwidth_bytes_per_s, Source.CATALOG)
    if kind.bytes_per_s is None:
        return None
    source = Source.GIVEN if given.bytes_per_s is not None else Source.CATALOG
    return Fact(kind.bytes_per_s, Source.ASSUMED if is_assumed else source)


def _name(memory: _Memory, kind: MemoryKind, made: Processor | None, words: HostWords) -> str:
    """ "Ryzen 9 7950X, 64 GiB DDR5-5200 2ch"."""
    ram = f"{memory.total_bytes / GIB:.4g} GiB {kind}".strip()
    if memory.bandwidth_bytes_per_s is not None:
        ram += f" {memory.bandwidth_bytes_per_s / 1e9:.4g} GB/s"
    if made is None:
        return ram if words.cpu is None else f"{words.cpu}, {ram}"
    sockets = _SOCKETS.fullmatch(words.cpu or "")
    return f"{f'{sockets[1]}x ' if sockets else ''}{short_name(made.name)}, {ram}"


def _notes(host: Host, assumptions: list[str]) -> tuple[str, ...]:
    kept, total = format_bytes(host.in_use_bytes), format_bytes(host.total_bytes)
    notes = [f"of the host's {total}, {kept} are left to the kernel and the system's programs"]
    if assumptions:
        *first, last = assumptions
        what = f"{', '.join(first)} and {last}" if first else last
        notes.append(f"{what} are assumed of the host; --ram {RAM_EXAMPLES} and --cpu say otherwise")
    return tuple(notes)


def _is_kind(text: str) -> bool:
    try:
        parse_kind(text)
    except ValueError:
        return False
    return True
