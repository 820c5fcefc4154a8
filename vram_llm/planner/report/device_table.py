"""A row for each device: name, layers, a bar, used bytes and budget; or the reason why it is idle."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vram_llm.planner.overhead import overhead_bytes
from vram_llm.planner.placed_parts import OTHER, PlacedPart, on_host, placed_parts
from vram_llm.planner.report.figures import gib
from vram_llm.planner.report.idle import idle_reason
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import HOST, Plan, PlannedDevice
from vram_llm.text.lines import Line, Span, Style, bar, line, shorten, wrap
from vram_llm.text.names import short_name
from vram_llm.text.table import Cell, Column, table
from vram_llm.units import GIB

_WIDE_BAR, _BAR = 20, 10
_SMALL_BYTES = GIB // 20  # shown as 0.0 GiB below it
NONE = "-"
_ROOMY = 100  # columns; from there bars are longer


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """A row: a device in use, an idle one with the `reason`, or the host."""

    id: str
    name: str
    layers: str = ""
    parts: dict[str, str] = field(default_factory=dict)  # layers whose parts are here, by kind of part
    used_bytes: int = 0
    budget_bytes: int = 0
    reason: str | None = None

    @property
    def share(self) -> float:
        """The used share of the budget."""
        return self.used_bytes / self.budget_bytes if self.budget_bytes > 0 else float(self.used_bytes > 0)


def _share(plan: Plan, device_id: str) -> str:
    """A device's share of every layer, "38%"; "" if it has whole layers."""
    placement = plan.placement
    if placement.split_mode is SplitMode.LAYER:
        return ""
    share = placement.tensor_split[placement.device_order.index(device_id)] / sum(placement.tensor_split)
    return f"{share:.0%}"


def device_uses(plan: Plan) -> tuple[DeviceUse, ...]:
    """A row for each device of the plan, and one for the host if it holds layers or at least _SMALL_BYTES."""
    layers = dict(zip(plan.placement.device_order, plan.placement.layers_per_device, strict=True))
    output, held = plan.placement.output_device, {use.id: use for use in plan.estimate.devices}
    parts = placed_parts(plan.model, plan.placement)

    def of(device_id: str) -> dict[str, str]:
        return {kind: _part(kind, places.get(device_id)) for kind, places in parts.items()}

    rows = []
    for device in plan.devices:
        name = short_name(device.name)
        if device.id in layers:
            use = held[device.id]
            rows.append(
                DeviceUse(
                    id=device.id,
                    name=name,
                    layers=_share(plan, device.id) or _layers(layers[device.id], device.id == output),
                    parts=of(device.id),
                    used_bytes=use.total_bytes,
                    budget_bytes=use.budget_bytes,
                )
            )
        elif companions := [companion for companion in plan.companions if companion.device == device.id]:
            rows.append(_companion_row(plan, device, companions[0].kind.value))
        else:
            rows.append(DeviceUse(id=device.id, name=name, reason=idle_reason(plan, device)))
    host = plan.estimate.host
    if host.total_bytes >= _SMALL_BYTES or on_host(plan.placement).n_with_weights:
        count = _layers(plan.placement.cpu_layers, output == HOST) if plan.placement.cpu_layers else ""
        rows.append(
            DeviceUse(
                id=HOST,
                name=plan.host.name if plan.host is not None and plan.host.what_if else "this computer",
                layers=count,
                parts=of(HOST),
                used_bytes=host.total_bytes,
                budget_bytes=host.budget_bytes,
            )
        )
    return tuple(rows)


def device_table(plan: Plan, width: int) -> list[Line]:
    """A line for each device; two if `width` is small."""
    rows = device_uses(plan)
    bar_width = _WIDE_BAR if width >= _ROOMY else _BAR
    id_width = max(len(row.id) for row in rows)
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.parts))
    columns = (
        Column(title="device", least=18),
        *(Column(title=title, right=True) for title in ("layers", *kinds)),
        Column(),
        Column(title="used", right=True),
        Column(title="of GiB", right=True),
    )
    cells = [_cells(row, kinds, id_width, bar_width) for row in rows]
    return table(columns, cells, width) or _stacked(rows, width)


def _cells(row: DeviceUse, kinds: Sequence[str], id_width: int, bar_width: int) -> Sequence[Cell]:
    device = f"{row.id:<{id_width}}  {row.name}"
    if row.reason is not None:
        return device, line(row.reason, Style.DIM)
    used, of = gib(row.used_bytes), gib(row.budget_bytes)
    parts = (row.parts.get(kind, "") for kind in kinds)
    return device, row.layers, *parts, bar(row.share, bar_width), used, of


def _stacked(rows: Sequence[DeviceUse], width: int) -> list[Line]:
    lines: list[Line] = []
    for row in rows:
        layers = f" {_layers_and_parts(row)}"
        name = shorten(f"{row.id}  {row.name}", width - len(layers))
        lines.append(line(name.ljust(width - len(layers)) + layers))
        if row.reason is not None:
            lines += wrap(f"  {row.reason}", width, Style.DIM, "  ")
            continue
        used = f" {gib(row.used_bytes)} of {gib(row.budget_bytes)} GiB"
        lines.append((Span("  "), *bar(row.share, max(width - 2 - len(used), 4)), Span(used)))
    return lines


def _layers_and_parts(row: DeviceUse) -> str:
    """ "46+out layers", "46+out, experts of 12"."""
    names = {OTHER: "weights"}
    held = {kind: cell for kind, cell in row.parts.items() if cell != NONE}
    parts = [f"{names.get(kind, kind)} of {cell}" for kind, cell in held.items()]
    if row.layers in ("", NONE):
        return ", ".join(parts)
    has_count = row.layers[-1].isdigit() or row.layers.endswith("out")
    return ", ".join([row.layers, *parts]) if parts or not has_count else f"{row.layers} layers"


def _layers(count: int, has_output: bool) -> str:
    """ "46+out"."""
    return (f"{count}+out" if count else "out") if has_output else str(count or NONE)


def _part(kind: str, placed: PlacedPart | None) -> str:
    """ "12", "12+part" with a part of one more layer's, "3 parts"."""
    if placed is None or not (placed.whole or placed.some):
        return NONE
    n_some = len(placed.some)
    if kind == OTHER:
        return str(n_some)
    some = "" if not n_some else "part" if n_some == 1 else f"{n_some} parts"
    return "+".join(text for text in (str(len(placed.whole) or ""), some) if text)


def _companion_row(plan: Plan, device: PlannedDevice, kind: str) -> DeviceUse:
    """A device that holds a draft model or a projector alone."""
    held = sum(
        companion.uses[device.id].total_bytes for companion in plan.companions if device.id in companion.uses
    )
    return DeviceUse(
        id=device.id,
        name=short_name(device.name),
        layers=kind,
        used_bytes=held + overhead_bytes(device),
        budget_bytes=device.budget_bytes(device.reserve_bytes),
    )
