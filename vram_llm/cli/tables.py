"""Machines and plans as tables. Figures in MiB, each with its basis."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vram_llm.cli import terminal
from vram_llm.cli.ways_table import FEW, ways_lines
from vram_llm.machine.assumed_speed import device_speed
from vram_llm.machine.types import Device, Machine, Source
from vram_llm.model.pooling import Pooling
from vram_llm.planner.companions import companion_only_devices
from vram_llm.planner.context_prices import context_line
from vram_llm.planner.llama_split import placement_flags, split_of
from vram_llm.planner.types import HOST, Companion, Context, Plan, SpeedEstimate
from vram_llm.units import format_bytes, format_count, format_mib

_NARROW = 72  # columns; below it only what matters most is shown


def print_machine(machine: Machine, reserve_bytes: int) -> None:
    """Devices with what of each can be used, and the host."""
    console = _console()
    host = machine.host
    if machine.devices:
        table = _table(console)
        for name in ("device", "name", "total", "free", "usable", "bandwidth"):
            table.add_column(name, justify="left" if name in ("device", "name") else "right")
        for device in machine.devices:
            usable = device.budget_bytes(reserve_bytes)
            table.add_row(
                device.id, device.name,
                format_mib(device.total_bytes), format_mib(device.free_bytes), format_mib(usable),
                _bandwidth(device),
            )  # fmt: skip
        console.print(table)
        sources = sorted({device.memory_source.value for device in machine.devices})
        reserve = format_mib(reserve_bytes)
        console.print(f"MiB; memory: {', '.join(sources)}; usable = free less {reserve} kept in reserve")
    else:
        console.print(
            "no GPU here; a model runs on the CPU, on workers (--rpc) or is planned for --gpu cards"
        )
    console.print(
        f"{HOST}: {host.name}, {host.cores} cores, {format_bytes(host.available_bytes)} "
        f"of {format_bytes(host.total_bytes)} memory available"
    )
    _print_notes(console, machine.notes)


def print_plan(plan: Plan, n_ways: int | None = FEW) -> None:
    """What goes where, what each device will hold by kind, llama.cpp's own split, and `n_ways` to change it.

    None: every way.
    """
    console = _console()
    context, placement = plan.context, plan.placement
    console.print(Text(f"{plan.model.name}, {plan.model.quantization}", style="bold"), soft_wrap=True)
    size = f"{plan.model.n_layers} layers, {format_bytes(plan.model.total_bytes)}"
    console.print(f"{_use(context)}, {size}")
    console.print()
    console.print(_plan_table(plan, console))
    console.print(_basis(plan))
    for companion in plan.companions:
        console.print(Text(f"beside it: {_companion(companion)}"))
    if plan.speed is not None:
        for line in speed_lines(plan.speed) if context.pooling is None else embedding_lines(plan.speed):
            console.print(line)
    if plan.devices:
        _print_flags(console, placement_flags(placement))
    if plan.by_free_memory is not None:
        split = split_of(plan.by_free_memory.placement)
        console.print(f"llama.cpp itself, by free memory, would split {split}: {_verdict(plan)}")
    if any(device.what_if for device in plan.devices):
        console.print("the host is this computer, also beside cards that are not in it")
    if lines := ways_lines(plan, console.width, n_ways):
        console.print()
        for line in lines:
            console.print(Text(line), soft_wrap=True)
    context_note = context_line(plan)
    _print_notes(console, (*([] if context_note is None else [context_note]), *plan.notes))


def _print_flags(console: Console, flags: Sequence[str]) -> None:
    """Options on one line, or where it is too narrow on several that can still be pasted together."""
    line = " ".join(flags)
    if len(line) > console.width:
        line = line.replace(" --", " \\\n--")
    console.print(Text(line), soft_wrap=True)


def print_reasons(reasons: Sequence[str]) -> None:
    """What forced the choice, a sentence a line."""
    console = _console()
    console.print()
    for reason in reasons:
        console.print(Text(reason))


def _companion(companion: Companion) -> str:
    """A companion, where it lies and what it holds there."""
    held = [
        f"{format_bytes(use.total_bytes)} on {name}"
        for name, use in companion.uses.items()
        if use.total_bytes
    ]
    estimated = ", compute estimated" if companion.method == "analytic" else ""
    return f"{companion.kind.value} {companion.name}, {', '.join(held)}{estimated}"


def _use(context: Context) -> str:
    """What the context is for."""
    n_each = format_count(context.n_ctx_seq)
    if context.pooling is not None:
        what = "scores" if context.pooling is Pooling.RANK else f"embeddings ({context.pooling})"
        return f"{what} of texts of up to {n_each} tokens, {context.parallel} at a time"
    kept = "KV" if context.kv_unified else f"{n_each} each, KV"
    return (
        f"{format_count(context.n_ctx)} context for {context.parallel} sequences, {kept} {context.kv_type_k}"
    )


def _tokens_per_s(plan: Plan, speed: SpeedEstimate | None) -> float | None:
    """Of one stream; where the plan is to embed, of texts, which are computed as prompts are."""
    if speed is None:
        return None
    return speed.tokens_per_s if plan.context.pooling is None else speed.prompt_tokens_per_s


def embedding_lines(speed: SpeedEstimate) -> list[str]:
    """What to expect where nothing is decoded."""
    if speed.prompt_tokens_per_s is None:
        return []
    return [f"expected: {rate(speed.prompt_tokens_per_s)} tok/s ({speed.prompt_basis})"]


def speed_lines(speed: SpeedEstimate) -> list[str]:
    """What to expect, each figure with its basis, and where the time of a decode step goes."""
    many = ""
    if speed.streams > 1 and speed.streams_tokens_per_s is not None:
        together = f"{rate(speed.streams_tokens_per_s)} for {speed.streams} together"
        many = f", {together} ({speed.streams_basis})"
    one = f"{rate(speed.tokens_per_s)} tok/s ({speed.basis})"
    lines = [f"expected: {one}{many}, at a depth of {format_count(speed.depth)}"]
    if speed.prompt_s is not None and speed.prompt_tokens_per_s is not None:
        lines.append(
            f"prompts: {rate(speed.prompt_tokens_per_s)} tok/s, the first token after {speed.prompt_s:.2g} s "
            f"for {format_count(speed.prompt_tokens)} ({speed.prompt_basis})"
        )
    if len(speed.devices) > 1:
        shares = ", ".join(f"{each.id} {each.share:.0%}" for each in speed.devices)
        lines.append(f"time of a step: {shares}")
    return lines


def rate(tokens_per_s: float) -> str:
    """Tokens per second as they are worth telling: "7.4", "113"."""
    return f"{tokens_per_s:,.1f}" if tokens_per_s < 99.95 else f"{tokens_per_s:,.0f}"


def _basis(plan: Plan) -> str:
    """Where the figures of the table are from."""
    exact = plan.estimate.method != "analytic"
    by_whom = "to the byte, by llama.cpp's own dry run" if exact else "exact, compute an upper estimate"
    which = "weights, context and compute" if exact else "weights and context"
    used = [device for device in plan.devices if device.id in plan.used]
    measured = [device.id for device in used if device.overhead is not None]
    overhead = "; overhead estimated" if used else ""
    if measured:
        where = "" if len(measured) == len(used) else f" on {', '.join(measured)}, else estimated"
        overhead = f"; overhead measured{where}"
    return f"MiB; {which} {by_whom}{overhead}"


def _plan_table(plan: Plan, console: Console) -> Table:
    table = _table(console)
    shares = bool(plan.companions)
    kinds = ("weights", "context", "compute", *(("beside",) if shares else ()), "overhead")
    kinds = kinds if console.width >= _NARROW else ()
    table.add_column("device", no_wrap=True)
    table.add_column("layers", justify="right", no_wrap=True)
    for name in (*kinds, "total", "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("name" if console.width >= 100 else "")
    placement, first = plan.placement, plan.placement.cpu_layers
    names = {device.id: device.name for device in plan.devices}
    host = plan.estimate.host
    for device, count in zip(plan.estimate.devices, placement.layers_per_device, strict=True):
        layers = _layers(first, count, placement.output_device == device.id)
        first += count
        by_kind = [device.weights_bytes, device.context_bytes, device.compute_bytes]
        by_kind += [*([device.companion_bytes] if shares else []), device.overhead_bytes]
        shown = [*by_kind[: len(kinds)], device.total_bytes, device.budget_bytes]
        bar = _bar(device.total_bytes / device.budget_bytes) if device.budget_bytes else Text("")
        last = Text(names[device.id]) if console.width >= 100 else bar
        table.add_row(device.id, layers, *map(format_mib, shown), last)
    for device in companion_only_devices(plan):
        by_kind = [0, 0, 0, device.companion_bytes, device.overhead_bytes]
        shown = [*by_kind[: len(kinds)], device.total_bytes, device.budget_bytes]
        bar = _bar(device.total_bytes / device.budget_bytes) if device.budget_bytes else Text("")
        last = Text(names[device.id]) if console.width >= 100 else bar
        table.add_row(device.id, "-", *map(format_mib, shown), last)
    by_kind = [host.weights_bytes, host.context_bytes, host.compute_bytes]
    by_kind += [*([host.companion_bytes] if shares else []), 0]
    shown = [*by_kind[: len(kinds)], host.total_bytes, host.budget_bytes]
    layers = _layers(0, placement.cpu_layers, placement.output_device == HOST)
    table.add_row(HOST, layers, *map(format_mib, shown), Text(""))
    return table


def _layers(first: int, count: int, has_output: bool) -> str:
    run = f"{first}-{first + count - 1}" if count > 1 else str(first) if count else ""
    return f"{run}+out" if has_output and run else "out" if has_output else run or "-"


def _bar(share: float, width: int = 7) -> Text:
    filled = min(round(share * width), width)
    return Text("▇" * filled, style="green" if share <= 0.9 else "yellow") + Text(
        "·" * (width - filled), style="dim"
    )


def _verdict(plan: Plan) -> str:
    assert plan.by_free_memory is not None
    tokens_per_s = _tokens_per_s(plan, plan.by_free_memory.speed)
    expected = f", at {rate(tokens_per_s)} tok/s" if tokens_per_s is not None else ""
    over = [
        f"{device.id} {format_bytes(device.over_bytes)} over"
        for device in plan.by_free_memory.estimate.devices
        if device.over_bytes > 0
    ]
    return ", ".join(over) if over else f"it would fit too{expected}"


def _bandwidth(device: Device) -> str:
    """What a device reads per second: measured, else its datasheet's figure, else an assumed one."""
    read = device_speed(device).read_bytes_per_s
    bandwidth = device.bandwidth_bytes_per_s
    fact = read if bandwidth is None or read.source is Source.MEASURED else bandwidth
    return f"{fact.value / 1e9:,.0f} GB/s ({fact.source})"


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(Text(f"note: {note}", style="dim"))


def _table(console: Console) -> Table:
    return Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")


def _console() -> Console:
    return terminal.console()
