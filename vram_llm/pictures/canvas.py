"""A figure of matplotlib and the file that it is written to. matplotlib is imported here, when it is needed.

Figures are drawn without pyplot, so no display is needed and nothing is kept between pictures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_llm.errors import BadPicture, MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")
_DPI = 160
INK, FAINT = "#1f2328", "#d0d7de"
# Okabe and Ito's colours, which people without red-green vision tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c959f",
)  # fmt: skip
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": GREY, "xtick.color": INK, "ytick.color": INK, "axes.titlesize": 11,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 10, "axes.grid": False,
    "axes.axisbelow": True, "grid.color": FAINT, "grid.linewidth": 0.7, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 9, "hatch.linewidth": 0.6,
    "svg.fonttype": "path", "svg.hashsalt": "vram-llm", "figure.facecolor": "white",
}  # fmt: skip


def check_picture(path: Path) -> None:
    """Raises BadPicture for a name or a folder that cannot be used, MissingExtra without matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadPicture(f"{path} is no name for a picture: give one that ends in {' or '.join(SUFFIXES)}")
    if path.is_dir() or not path.parent.is_dir():
        raise BadPicture(f"{path} cannot be written: {'it' if path.is_dir() else path.parent} is "
                         f"{'a folder' if path.is_dir() else 'no folder'}")  # fmt: skip
    if find_spec("matplotlib") is None:
        raise MissingExtra("pictures are drawn by matplotlib, which is not installed: "
                           "`pip install 'vram-llm[plot]'`")  # fmt: skip


@contextmanager
def picture(path: Path, title: str, size: tuple[float, float]) -> "Iterator[Figure]":
    """A figure of `size` in inches, written to `path` at the end of the block. Raises BadPicture."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # it wants literal keys
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=13, fontweight="bold")
        yield figure
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        try:
            figure.savefig(path, dpi=_DPI, metadata=metadata)
        except OSError as error:
            raise BadPicture(f"{path} cannot be written: {error.strerror or error}") from None


def empty(axes: "Axes", why: str) -> None:
    """Write why there is nothing to draw."""
    axes.set_axis_off()
    axes.text(0.0, 0.92, plain(why), transform=axes.transAxes, va="top", color=INK, wrap=True)


def plain(text: str) -> str:
    """A text that matplotlib shows as it is: "$" would begin a formula."""
    return "".join(char if char.isprintable() else "?" for char in text).replace("$", r"\$")
