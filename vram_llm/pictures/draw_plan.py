"""The picture of `plan --plot`: cards, memory by context, memory floor, and speed by depth."""

from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.pictures.canvas import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    empty,
    picture,
    plain,
)
from vram_llm.planner.floor import FloorRow
from vram_llm.planner.pictures import KINDS, CardBar, PlanPicture
from vram_llm.planner.report.figures import rate, rough_rate
from vram_llm.units import GIB, format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KIND_COLOURS = dict(zip(KINDS, (BLUE, ORANGE, GREEN, GREY, PURPLE), strict=True))
_CURVES = {"f16": (BLUE, "o", "-"), "q8_0": (ORANGE, "s", "--"), "q4_0": (GREEN, "^", "-.")}
_OTHER_CURVE = (PURPLE, "D", ":")
_NO_FLOOR = "No memory floor: the split is dictated,\nor the plan has companions."
_NAME_CHARS = 24


def draw_plan(plan: PlanPicture, path: Path) -> None:
    """Write the picture. Raises BadPicture."""
    n_rows = max(len(plan.cards), 3)
    heights = (max(3.0, 0.6 + 0.45 * n_rows), max(3.0, 0.8 + 0.27 * len(plan.steps)))
    title = f"{plan.title}, context {format_count(plan.n_ctx)}, KV cache {plan.kv_type}"
    with picture(path, title, (12.5, 1.6 + sum(heights))) as figure:
        grid = figure.add_gridspec(2, 2, height_ratios=heights)
        _draw_cards(figure.add_subplot(grid[0, 0]), plan)
        _draw_curves(figure.add_subplot(grid[0, 1]), plan)
        _draw_steps(figure.add_subplot(grid[1, 0]), plan)
        _draw_speeds(figure.add_subplot(grid[1, 1]), plan)


# -- cards ---------------------------------------------------------------------------------------


def _draw_cards(axes: "Axes", plan: PlanPicture) -> None:
    """A bar for each device: planned bytes by kind, the reserve, and other programs at the end."""
    axes.set_title("Memory of each device")
    for y, card in enumerate(plan.cards):
        _draw_card(axes, y, card)
    axes.set_yticks(range(len(plan.cards)), [_label(card) for card in plan.cards])
    axes.set_ylim(len(plan.cards) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(card.total_bytes for card in plan.cards) / GIB * 1.2)
    axes.set_xlabel("GiB")
    axes.xaxis.grid(True)
    _legend_of_cards(axes, plan)


def _draw_card(axes: "Axes", y: int, card: CardBar) -> None:
    left, total = 0.0, card.total_bytes / GIB
    for kind, n_bytes in card.bytes_by_kind.items():
        axes.barh(y, n_bytes / GIB, 0.62, left, color=_KIND_COLOURS[kind])
        left += n_bytes / GIB
    others, reserve = card.others_bytes / GIB, card.reserve_bytes / GIB
    axes.barh(
        y, reserve, 0.62, total - others - reserve, facecolor="white", edgecolor=GREY, hatch="/////", lw=0
    )
    axes.barh(y, others, 0.62, total - others, facecolor=FAINT, edgecolor=GREY, hatch="xxx", lw=0)
    axes.barh(y, total, 0.62, 0, facecolor="none", edgecolor=INK, linewidth=0.8)
    planned = sum(card.bytes_by_kind.values()) / GIB
    axes.text(total, y, f"  {planned:.1f} of {total:.1f}", va="center", ha="left")


def _label(card: CardBar) -> str:
    name = plain(card.name if len(card.name) <= _NAME_CHARS else f"{card.name[: _NAME_CHARS - 1]}…")
    if card.layers:
        return f"{name}\n{_layers(card.layers)}"
    return name if any(card.bytes_by_kind.values()) else f"{name}\nidle"


def _layers(text: str) -> str:
    count, _, output = text.partition(" ")
    one = "layer" if count == "1" else "layers"
    return f"{count} {one}{' + output' if output or '+out' in count else ''}".replace("+out", "")


def _legend_of_cards(axes: "Axes", plan: PlanPicture) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=_KIND_COLOURS[kind], label=kind)
        for kind in KINDS
        if any(card.bytes_by_kind[kind] for card in plan.cards)
    ]
    if any(card.reserve_bytes for card in plan.cards):
        handles.append(Patch(facecolor="white", edgecolor=GREY, hatch="/////", label="reserve"))
    if any(card.others_bytes for card in plan.cards):
        handles.append(Patch(facecolor=FAINT, edgecolor=GREY, hatch="xxx", label="other programs"))
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.42, -0.16), ncols=3)


# -- memory by context ---------------------------------------------------------------------------


def _draw_curves(axes: "Axes", plan: PlanPicture) -> None:
    """Bytes of everything on the cards by context, a line for each KV type and for each sum of cards."""
    axes.set_title("Memory by context, with everything on the cards")
    if not plan.curves:
        empty(axes, _NO_FLOOR)
        return
    for kv_type, points in plan.curves.items():
        colour, marker, dashes = _CURVES.get(kv_type, _OTHER_CURVE)
        contexts, sizes = [n for n, _ in points], [n_bytes / GIB for _, n_bytes in points]
        axes.plot(contexts, sizes, dashes, color=colour, marker=marker, markersize=4)
    highest = _label_curves(axes, plan)
    first, last = (pick(n for points in plan.curves.values() for n, _ in points) for pick in (min, max))
    top = max(n_bytes for points in plan.curves.values() for _, n_bytes in points) / GIB
    for name, n_bytes in plan.limits:
        if n_bytes / GIB > 1.6 * top:
            continue
        axes.axhline(n_bytes / GIB, color=RED, linewidth=1.0, linestyle=(0, (1, 1)))
        axes.annotate(
            plain(f"{name}: {n_bytes / GIB:.0f} GiB"), (first, n_bytes / GIB), (2, 2),
            textcoords="offset points", color=RED, fontsize=8.5,
        )  # fmt: skip
    axes.axvline(plan.n_ctx, color=INK, linewidth=0.9)
    axes.annotate(
        f"this plan: {format_count(plan.n_ctx)}", (plan.n_ctx, 0), (3, 4), textcoords="offset points",
        fontsize=8.5,
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    ticks = sorted({n for points in plan.curves.values() for n, _ in points})
    axes.set_xticks(ticks, [format_count(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlim(first, max(last, plan.n_ctx) * 1.5)
    axes.set_ylim(0, 1.06 * highest)
    axes.set_xlabel("context in tokens")
    axes.set_ylabel("GiB on all cards, one sequence")
    axes.yaxis.grid(True)


def _label_curves(axes: "Axes", plan: PlanPicture) -> float:
    """Write the KV types at the ends of their lines, apart from each other. Returns the highest place."""
    ends = sorted((points[-1][1] / GIB, points[-1][0], kv_type) for kv_type, points in plan.curves.items())
    apart, lowest = 0.055 * ends[-1][0], 0.0
    for size, n_ctx, kv_type in ends:
        y = lowest = max(size, lowest)
        colour, *_ = _CURVES.get(kv_type, _OTHER_CURVE)
        axes.annotate(
            plain(kv_type), (n_ctx, y), (8, 0), textcoords="offset points", va="center", color=colour,
            fontweight="bold",
        )  # fmt: skip
        lowest += apart
    return lowest - apart


# -- the memory floor ----------------------------------------------------------------------------


def _draw_steps(axes: "Axes", plan: PlanPicture) -> None:
    """A bar for each step to the least memory; it has the changes of those above it."""
    axes.set_title(f"Memory floor at {format_count(plan.n_ctx)} tokens: each step keeps those above")
    if not plan.steps:
        empty(axes, _NO_FLOOR)
        return
    for y, step in enumerate(plan.steps):
        vram, ram = step.vram_bytes / GIB, step.ram_bytes / GIB
        hatch = "" if step.fits else "///"
        axes.barh(y, vram, 0.62, color=BLUE, hatch=hatch, edgecolor="white", linewidth=0)
        axes.barh(y, ram, 0.62, vram, color=SKY, hatch=hatch, edgecolor="white", linewidth=0)
        axes.text(vram + ram, y, f"  {_step_text(step)}", va="center", ha="left", fontsize=8.5)
    axes.set_yticks(range(len(plan.steps)), [plain(step.name) for step in plan.steps])
    axes.set_ylim(len(plan.steps) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(step.vram_bytes + step.ram_bytes for step in plan.steps) / GIB * 1.28)
    axes.set_xlabel("GiB")
    axes.xaxis.grid(True)
    _legend_of_steps(axes, plan)


def _step_text(step: FloorRow) -> str:
    if not step.fits or step.tokens_per_s is None:
        return "does not fit"
    return f"{rate(step.tokens_per_s)} tok/s"


def _legend_of_steps(axes: "Axes", plan: PlanPicture) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=BLUE, label="cards"), Patch(facecolor=SKY, label="host")]
    if not all(step.fits for step in plan.steps):
        handles.append(Patch(facecolor=GREY, edgecolor="white", hatch="///", label="does not fit"))
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.42, -0.13), ncols=3)


# -- speed ---------------------------------------------------------------------------------------


def _draw_speeds(axes: "Axes", plan: PlanPicture) -> None:
    """Predicted tokens per second by depth, of one stream and of all together."""
    basis = "" if plan.basis is None else f" (speeds: {plan.basis.value})"
    axes.set_title(f"Predicted speed by depth{basis}")
    if not plan.speeds:
        empty(axes, "The model writes no text.")
        return
    looks = ((BLUE, "-"), (ORANGE, "--"))
    for curve, (colour, dashes) in zip(plan.speeds, looks, strict=False):
        shown = rate if curve.streams == 1 else rough_rate
        label = "one stream" if curve.streams == 1 else f"{curve.streams} streams together"
        depths, rates = zip(*curve.points, strict=True)
        axes.plot(depths, rates, dashes, color=colour, linewidth=2, label=label)
        for i in (0, -1):
            axes.annotate(
                shown(rates[i]), (depths[i], rates[i]), (4 if i == 0 else -4, 5), textcoords="offset points",
                ha="left" if i == 0 else "right", fontsize=8.5,
            )  # fmt: skip
    deepest = max(depth for curve in plan.speeds for depth, _ in curve.points)
    ticks = [deepest * i // 4 for i in range(5)]
    axes.set_xticks(ticks, [format_count(n) for n in ticks])
    axes.set_xlim(0, deepest)
    axes.set_ylim(0, max(each for curve in plan.speeds for _, each in curve.points) * 1.12)
    axes.set_xlabel("tokens of context in each stream")
    axes.set_ylabel("tok/s")
    axes.yaxis.grid(True)
    axes.legend(loc="center right")
