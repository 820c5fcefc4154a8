"""A fleet's plan as lines for any width: bars of models by devices, sets that fit together, swaps."""

from collections.abc import Sequence

from vram_llm.machine.types import Source
from vram_llm.planner.fleet.types import FleetPlan, PackedModel
from vram_llm.planner.fleet.unloading import Swap, swap_table
from vram_llm.planner.report.figures import gib, rate, seconds
from vram_llm.planner.types import HOST
from vram_llm.text.lines import Line, Span, Style, bar, line, printable, shorten, text_of, wrap
from vram_llm.text.names import short_name
from vram_llm.text.table import Column, table

_LONGEST_NAME = 24  # characters of a model's name in the first column
_FIGURE = 6  # characters of " 123.4" after a bar
_LEAST_BAR, _WIDEST_BAR = 4, 16
_GAP = 2
FEW = 12  # swaps that are listed unless all are wanted


def fleet_report(plan: FleetPlan, width: int, *, all_swaps: bool = False) -> list[Line]:
    """The whole report; a row fits `width` columns, from 40."""
    return [
        *_head(plan, width),
        (),
        *fleet_bars(plan, width),
        *wrap(_how_to_read(plan), width, Style.DIM),
        (),
        *_sets(plan, width),
        *_swaps(plan, width, all_swaps=all_swaps),
        (),
        *(row for model in plan.models for row in wrap(_why(model), width, indent="  ")),
        *(row for note in plan.notes for row in wrap(f"note: {note}", width, Style.DIM, "  ")),
    ]


def fleet_bars(plan: FleetPlan, width: int) -> list[Line]:
    """A row for each model, a bar for each device; a list where they do not fit side by side."""
    devices = _shown_devices(plan)
    name_width = max(len(_name(model)) for model in plan.models)
    room = (width - name_width) // max(len(devices), 1) - _GAP - _FIGURE
    if room < _LEAST_BAR:
        return _listed_bars(plan, devices, width)
    bar_width = min(room, _WIDEST_BAR)
    cell = bar_width + _FIGURE
    titles = [_title(plan, device_id, cell) for device_id in devices]
    lines: list[Line] = [_joined(" " * name_width, [line(title[row], Style.DIM) for title in titles], cell)
                         for row in (0, 1)]  # fmt: skip
    for model in plan.models:
        cells = [_bar(model, device_id, plan.budgets[device_id], bar_width) for device_id in devices]
        lines.append(_joined(f"{_name(model):<{name_width}}", cells, cell))
    return lines


def _shown_devices(plan: FleetPlan) -> list[str]:
    """The devices with a budget, and the host if a model has more than a little of it or nothing else."""
    used = {device_id for model in plan.models for device_id, n_bytes in model.uses.items() if n_bytes}
    ids = [device.id for device in plan.devices if device.id in plan.budgets]
    return [*ids, *([HOST] if HOST in used or not ids else [])]


def _title(plan: FleetPlan, device_id: str, width: int) -> tuple[str, str]:
    """The device's id, and its name with its budget, cut to the width of a cell."""
    names = {device.id: short_name(device.name) for device in plan.devices}
    budget = f"{gib(plan.budgets[device_id])} GiB"
    name = names.get(device_id, "")
    first = f"{device_id} {budget}" if len(device_id) + len(budget) < width else device_id
    return shorten(first, width), shorten(name, width)


def _bar(model: PackedModel, device_id: str, budget: int, width: int) -> Line:
    n_bytes = model.uses.get(device_id, 0)
    if not n_bytes:
        return line("·" * width, Style.DIM)
    share = n_bytes / budget if budget > 0 else 1.0
    return (*bar(share, width), Span(f"{gib(n_bytes):>{_FIGURE}}"))


def _joined(first: str, cells: Sequence[Line], cell_width: int) -> Line:
    spans: list[Span] = [Span(first)]
    for cell in cells:
        spans += [Span(" " * _GAP), *cell, Span(" " * max(cell_width - len(text_of(cell)), 0))]
    return tuple(spans)


def _listed_bars(plan: FleetPlan, devices: Sequence[str], width: int) -> list[Line]:
    """The devices below each other, each with the models on it."""
    name_width = min(max(len(_name(model)) for model in plan.models), max(width // 3, 8))
    bar_width = min(max(width - name_width - _FIGURE - 2 * _GAP, _LEAST_BAR), 2 * _WIDEST_BAR)
    names = {device.id: short_name(device.name) for device in plan.devices}
    lines: list[Line] = []
    for device_id in devices:
        title = f"{device_id} {names.get(device_id, '')}, {gib(plan.budgets[device_id])} GiB".replace(
            " ,", ","
        )
        lines.append(line(shorten(title, width), Style.DIM))
        here = [model for model in plan.models if model.uses.get(device_id)]
        for model in here:
            name = shorten(_name(model), name_width)
            cell = _bar(model, device_id, plan.budgets[device_id], bar_width)
            lines.append((Span(f"  {name:<{name_width}}  "), *cell))
        if not here:
            lines.append(line("  no model", Style.DIM))
    return lines


def _head(plan: FleetPlan, width: int) -> list[Line]:
    n_models, n_sets = len(plan.models), len(plan.sets)
    if n_sets == 1 and len(plan.sets[0]) == n_models:
        which = "The model fits." if n_models == 1 else f"All {n_models} models fit together."
    else:
        most = max(map(len, plan.sets), default=0)
        which = (
            f"{n_models} models, of which up to {most} fit together; a request for another one unloads what "
            "is in its way."
        )
    return wrap(which, width, Style.STRONG)


def _how_to_read(plan: FleetPlan) -> str:
    exact = all(
        replica.plan.estimate.method != "analytic" for model in plan.models for replica in model.replicas
    )
    how = "to the byte, by llama.cpp's own dry run" if exact else "compute an upper estimate"
    return f"GiB of each device's budget: free memory less the reserve. Models: {how}, with all replicas."


def _sets(plan: FleetPlan, width: int) -> list[Line]:
    at_start = set(plan.resident_at_start)
    lines: list[Line] = []
    for number, fitting in enumerate(plan.sets):
        names = _names(plan, fitting)
        start = " (loaded at the start)" if at_start == fitting else ""
        first = "fit together: " if number == 0 else "              "
        rows = wrap(f"{', '.join(names)}{start}", max(width - len(first), 20))
        lines += [
            (Span(first if i == 0 else " " * len(first), Style.DIM), *row) for i, row in enumerate(rows)
        ]
    if at_start and not any(at_start == fitting for fitting in plan.sets):
        lines += wrap(f"at the start: {', '.join(_names(plan, at_start))}", width, indent="  ")
    return lines


def _names(plan: FleetPlan, chosen: frozenset[str] | set[str]) -> list[str]:
    """Names in the user's order."""
    return [_name(model) for model in plan.models if model.spec.name in chosen]


def _name(model: PackedModel) -> str:
    return shorten(printable(model.spec.name), _LONGEST_NAME)


def _swaps(plan: FleetPlan, width: int, *, all_swaps: bool) -> list[Line]:
    swaps = swap_table(plan)
    if not swaps:
        return []
    shown = swaps if all_swaps else swaps[:FEW]
    columns = [
        Column(title="asked for", least=8),
        Column(title="while loaded", least=12),
        Column(title="unloaded", least=8),
        Column(title="takes", right=True),
        Column(),
    ]
    rows = [_swap_row(plan, swap) for swap in shown]
    lines: list[Line] = [(), *(table(columns, rows, width) or _narrow_swaps(rows, width))]
    if len(shown) < len(swaps):
        lines += wrap(f"{len(swaps) - len(shown)} more: --verbose lists all", width, Style.DIM)
    return lines


def _swap_row(plan: FleetPlan, swap: Swap) -> tuple[str, ...]:
    takes = "-" if swap.seconds is None else seconds(swap.seconds)
    basis = "" if swap.seconds is None else _basis(swap.basis)
    others = swap.loaded - {swap.asked}
    asked = " + ".join([*_names(plan, {swap.asked}), *_names(plan, others)])
    unloaded = ", ".join(_names(plan, swap.unloaded)) or "none"
    return asked, ", ".join(_names(plan, swap.resident)), unloaded, takes, basis


def _narrow_swaps(rows: Sequence[tuple[str, ...]], width: int) -> list[Line]:
    return [
        row
        for asked, resident, unloaded, takes, basis in rows
        for row in wrap(f"{asked} while {resident}: unloads {unloaded}, {takes} {basis}", width, indent="  ")
    ]


def _basis(source: Source) -> str:
    return str(source)


def _why(model: PackedModel) -> str:
    """The model's speed, and the reason for its place."""
    speeds = [
        replica.throughput_tokens_per_s
        for replica in model.replicas
        if replica.throughput_tokens_per_s is not None
    ]
    first = model.replicas[0].tokens_per_s
    speed = "" if first is None else f"{rate(first)} tok/s for one stream"
    if len(model.replicas) > 1 and len(speeds) == len(model.replicas):
        speed = f"{rate(sum(speeds))} tok/s together"
    return f"{_name(model)}: {', '.join(filter(None, (speed, model.why)))}"
