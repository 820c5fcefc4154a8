"""Lines of `plan --verbose`: bytes by kind, llama.cpp's flags and its own split, shares of time."""

from collections.abc import Sequence

from vram_llm.planner.companions import companion_only_devices
from vram_llm.planner.estimates import DeviceEstimate, HostEstimate
from vram_llm.planner.llama_split import placement_flags, split_of
from vram_llm.planner.override_text import layer_ranges
from vram_llm.planner.placed_parts import PlacedPart, placed_parts
from vram_llm.planner.report.figures import rate
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import HOST, Plan
from vram_llm.text.lines import Line, Style, line, wrap
from vram_llm.text.table import Cell, Column, table
from vram_llm.units import format_bytes, format_mib

_Figures = tuple[str, dict[str, str]]  # of a device or the host: its id, and a figure for each kind


def details(plan: Plan, width: int) -> list[Line]:
    """The lines, with an empty one first."""
    lines: list[Line] = [()]
    figures = _figures(plan)
    kinds = list(dict.fromkeys(kind for _, of in figures for kind in of))
    while figures:
        n = len(figures)
        while (shown := _table(kinds, figures[:n], width)) is None and n > 1:
            n -= 1
        lines += shown or []
        figures = figures[n:]
    lines += [row for sentence in _sentences(plan) for row in wrap(sentence, width)]
    return lines + _flags(plan, width) if plan.devices else lines


def _table(kinds: Sequence[str], figures: Sequence[_Figures], width: int) -> list[Line] | None:
    columns = [Column(title="MiB", style=Style.DIM), *(Column(title=id_, right=True) for id_, _ in figures)]
    rows: list[Sequence[Cell]] = [(kind, *(of.get(kind, "-") for _, of in figures)) for kind in kinds]
    return table(columns, rows, width)


def _figures(plan: Plan) -> list[_Figures]:
    placement, first = plan.placement, plan.placement.cpu_layers
    ranges = {HOST: _range(0, first)}
    for device_id, count in zip(placement.device_order, placement.layers_per_device, strict=True):
        ranges[device_id] = _range(first, count)
        first += count if placement.split_mode is SplitMode.LAYER else 0
    parts = placed_parts(plan.model, placement)
    shares = {} if plan.speed is None else {device.id: f"{device.share:.0%}" for device in plan.speed.devices}
    found: list[_Figures] = []
    uses: list[DeviceEstimate | HostEstimate] = [*plan.estimate.devices, *companion_only_devices(plan)]
    for use in [*uses, plan.estimate.host]:
        device_id = use.id if isinstance(use, DeviceEstimate) else HOST
        of = {
            "layers": ranges.get(device_id, "-"),
            **{kind: _part(places.get(device_id)) for kind, places in parts.items()},
            "weights": format_mib(use.weights_bytes),
            "context": format_mib(use.context_bytes),
            "compute": format_mib(use.compute_bytes),
        }
        if plan.companions:
            of["companions"] = format_mib(use.companion_bytes)
        if isinstance(use, DeviceEstimate):
            of["overhead"] = format_mib(use.overhead_bytes)
        of |= {"used": format_mib(use.total_bytes), "of": format_mib(use.budget_bytes)}
        if device_id == HOST and (states := _states_bytes(plan)):
            of["states"] = format_mib(states)
        if plan.context.pooling is None:
            of["time"] = shares.get(device_id, "-")
        found.append((device_id, of))
    return found


def _states_bytes(plan: Plan) -> int:
    """The most bytes of the host that states of idle conversations take while the engine serves."""
    return (plan.serving.slots_ram_bytes or 0) if plan.context.pooling is None else 0


def _part(placed: PlacedPart | None) -> str:
    """ "0-11,14*": the layers whose parts are on a device; * marks those of which it has some of a part."""
    if placed is None:
        return "-"
    some = [f"{run}*" for run in layer_ranges(placed.some).split(",") if run]
    return ",".join([*([layer_ranges(placed.whole)] if placed.whole else []), *some]) or "-"


def _range(first: int, count: int) -> str:
    return f"{first}-{first + count - 1}" if count > 1 else str(first) if count else "-"


def _sentences(plan: Plan) -> list[str]:
    placement, sentences = plan.placement, []
    if placement.split_mode is SplitMode.TENSOR:
        sentences.append("Each device has a share of every layer and of the output.")
    elif placement.output_device != HOST:
        sentences.append(f"The output is on {placement.output_device}.")
    kinds = placed_parts(plan.model, placement)
    if any(placed.some for places in kinds.values() for placed in places.values()):
        sentences.append("*: of these layers only some of the weights.")
    if _states_bytes(plan):
        sentences.append("states: of idle conversations; they take more memory later, as far as it is free.")
    if plan.speed is not None and len(plan.speed.devices) > 1 and plan.context.pooling is None:
        if placement.split_mode is SplitMode.LAYER:
            sentences.append("time: share of a decode step; devices compute one after the other.")
        else:
            sentences.append("time: share of a decode step; devices compute at the same time, then add up.")
    if plan.by_free_memory is not None:
        split = split_of(plan.by_free_memory.placement)
        sentences.append(f"llama.cpp itself, by free memory, would split {split}: {_verdict(plan)}.")
    return sentences


def _flags(plan: Plan, width: int) -> list[Line]:
    """The split as options, on one line or on several that a shell joins."""
    flags = " ".join(placement_flags(plan.placement))
    pieces = [flags] if len(flags) <= width else flags.replace(" --", " \\\n--").splitlines()
    return [line("As flags:"), *map(line, pieces)]


def _verdict(plan: Plan) -> str:
    assert plan.by_free_memory is not None
    over = [
        f"{device.id} {format_bytes(device.over_bytes)} over"
        for device in plan.by_free_memory.estimate.devices
        if device.over_bytes > 0
    ]
    if over:
        return ", ".join(over)
    speed = plan.by_free_memory.speed
    if speed is None or plan.context.pooling is not None:
        return "it would fit too"
    return f"it would fit too, at {rate(speed.tokens_per_s)} tok/s"
