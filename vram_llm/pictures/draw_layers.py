"""The picture of `analyze --plot`: bytes of each layer by role, and by device if there is a plan."""

from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.model.tensors import Role
from vram_llm.pictures.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    picture,
    plain,
)
from vram_llm.planner.pictures import ROLES, LayerPicture, RoleBytes
from vram_llm.planner.types import HOST
from vram_llm.units import MIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

_ROLE_COLOURS = {
    Role.ATTENTION: BLUE,
    Role.RECURRENT: PURPLE,
    Role.FFN: ORANGE,
    Role.EXPERT: GREEN,
    Role.OTHER: GREY,
}
_NAMES = {
    Role.ATTENTION: "attention", Role.RECURRENT: "recurrent", Role.FFN: "feed-forward",
    Role.EXPERT: "experts", Role.OTHER: "other",
}  # fmt: skip
_DEVICE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW)
_HATCHES = {Role.ATTENTION: "", Role.RECURRENT: "xx", Role.FFN: "//", Role.EXPERT: "..", Role.OTHER: "\\\\"}
_LEAST_WIDTH, _MOST_WIDTH = 9.0, 16.0  # inches


def draw_layers(layers: LayerPicture, path: Path) -> None:
    """Write the picture. Raises BadPicture."""
    width = min(max(_LEAST_WIDTH, 2.5 + 0.11 * len(layers.bars)), _MOST_WIDTH)
    colours = dict(zip([i for i in layers.devices if i != HOST], _DEVICE_COLOURS * 9, strict=False))
    colours[HOST] = GREY
    with picture(path, f"{layers.title}: bytes of each layer", (width, 4.6)) as figure:
        _draw(figure.add_subplot(), layers, colours, n_labels=int(3 * width))
        figure.legend(handles=_legend(layers, colours), loc="outside lower center", ncols=4)


def _draw(axes: "Axes", layers: LayerPicture, colours: dict[str, str], n_labels: int) -> None:
    for x, bar in enumerate(layers.bars):
        bottom = 0.0
        for part in bar.parts:
            height = part.n_bytes / MIB
            colour, hatch = _look(part, colours)
            axes.bar(x, height, 0.86, bottom, lw=0.4, edgecolor="white", facecolor=colour, hatch=hatch)
            bottom += height
    every = -(-len(layers.bars) // n_labels)
    shown = [
        i for i, bar in enumerate(layers.bars) if not bar.label.isdecimal() or int(bar.label) % every == 0
    ]
    axes.set_xticks(shown, [layers.bars[i].label for i in shown])
    axes.set_xlim(-0.7, len(layers.bars) - 0.3)
    axes.set_xlabel("layer (in: embedding, out: output)")
    axes.set_ylabel("MiB")
    axes.yaxis.grid(True)


def _look(part: RoleBytes, colours: dict[str, str]) -> tuple[str, str]:
    """Colour and hatch: of the role; with a plan the colour of the device and the hatch of the role."""
    if part.device is None:
        return _ROLE_COLOURS[part.role], ""
    return colours[part.device], _HATCHES[part.role]


def _legend(layers: LayerPicture, colours: dict[str, str]) -> "list[Patch]":
    """Devices, and roles by their hatch; without devices, roles by their colour."""
    from matplotlib.patches import Patch

    parts = [part for bar in layers.bars for part in bar.parts]
    roles = [role for role in ROLES if any(part.role is role for part in parts)]
    if not layers.devices:
        return [Patch(facecolor=_ROLE_COLOURS[role], label=_NAMES[role]) for role in roles]
    used = {part.device for part in parts}
    devices = [
        Patch(facecolor=colours[device], label=plain(f"{name} ({device})" if device != HOST else name))
        for device, name in layers.devices.items()
        if device in used
    ]
    hatched = (
        Patch(facecolor="white", edgecolor=GREY, hatch=_HATCHES[role], label=_NAMES[role]) for role in roles
    )
    return [*devices, *hatched]
