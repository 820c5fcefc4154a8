"""The screen of `watch`: which panel has how many lines and columns. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vram_llm.cli.watching.drawing import fitted, padded
from vram_llm.cli.watching.history import Curve, History
from vram_llm.cli.watching.panels import (
    device_lines,
    head_line,
    host_line,
    load_lines,
    model_lines,
    process_lines,
    request_lines,
    warning_lines,
)
from vram_llm.cli.watching.process_sort import ProcessSort
from vram_llm.cli.watching.snapshot import Snapshot
from vram_llm.text.lines import Line, Span, Style, line

_WIDE = 120  # columns; from here on there are two of panels
_MOST_ROWS = 8  # of a curve
_CHOSEN_ROWS = 1  # more lines for the chosen device
_GAP = 2  # columns between panels
_WARNINGS = "warnings (w)"
_LEAST = 4  # lines of the programs: rule, titles and two of them


@dataclass(slots=True, kw_only=True)
class View:
    """The shown snapshot, and how it is drawn. `gone` says why there is no answer now."""

    history: History
    snapshot: Snapshot | None = None
    gone: str | None = None
    curve: Curve = Curve.UTILIZATION
    sort: ProcessSort = field(default_factory=ProcessSort)
    chosen: int = 0

    def choose(self, step: int) -> None:
        """Choose a device further down or up."""
        n_devices = len(self.snapshot.devices) if self.snapshot is not None else 0
        self.chosen = min(max(self.chosen + step, 0), max(n_devices - 1, 0))


def screen_lines(view: View, width: int, height: int) -> list[Line]:
    """The screen, of at most `height` lines of at most `width` columns."""
    snapshot = view.snapshot
    lines = [head_line(snapshot, view.gone, width)]
    if snapshot is None:
        return lines
    lines += load_lines(snapshot, view.history, width)
    lines += _section("models", model_lines(snapshot, width), width, max(height // 3, _LEAST))
    left_lines = height - len(lines)
    body = (
        _wide(view, snapshot, width, left_lines)
        if width >= _WIDE
        else _narrow(view, snapshot, width, left_lines)
    )
    return [fitted(each, width) for each in (lines + body)[:height]]


def _narrow(view: View, snapshot: Snapshot, width: int, height: int) -> list[Line]:
    """Devices above programs above warnings."""
    most = max(height // 3, 2)
    warnings = _section(_WARNINGS, warning_lines(snapshot, width, most - 1), width, most)
    programs = _programs(view, snapshot, width)
    least = min(len(programs) + 1, _LEAST)
    devices = _devices(view, snapshot, width, height - len(warnings) - least)
    left_lines = height - len(devices) - len(warnings)
    middle = _section("programs on the cards", programs, width, left_lines)
    requests = _section(
        "requests", request_lines(snapshot.requests, width), width, max(left_lines - len(middle), 0)
    )
    return [*devices, *middle, *requests, *warnings]


def _wide(view: View, snapshot: Snapshot, width: int, height: int) -> list[Line]:
    """Devices at the left; programs, requests and warnings at the right."""
    left_width = width * 3 // 5
    right_width = width - left_width - _GAP
    left = _devices(view, snapshot, left_width, height)
    most = height // 2
    warnings = _section(_WARNINGS, warning_lines(snapshot, right_width, most - 1), right_width, most)
    rest = height - len(warnings)
    requests = request_lines(snapshot.requests, right_width)
    programs = _section(
        "programs on the cards",
        _programs(view, snapshot, right_width),
        right_width,
        rest // 2 if requests else rest,
    )
    shown = _section("requests", requests, right_width, rest - len(programs))
    return side_by_side(left, [*programs, *shown, *warnings], left_width)


def side_by_side(left: Sequence[Line], right: Sequence[Line], left_width: int) -> list[Line]:
    """Two blocks of lines as one."""
    n = max(len(left), len(right))
    filled = [*left, *[()] * (n - len(left))]
    others = [*right, *[()] * (n - len(right))]
    return [(*padded(a, left_width + _GAP), *b) for a, b in zip(filled, others, strict=True)]


def _programs(view: View, snapshot: Snapshot, width: int) -> list[Line]:
    return process_lines(snapshot.devices, view.sort, width) if snapshot.devices else []


def _devices(view: View, snapshot: Snapshot, width: int, height: int) -> list[Line]:
    """All devices if there is room, else those around the chosen one; then the host."""
    host = [] if snapshot.host is None else [host_line(snapshot.host, width)]
    rule = [_rule(f"devices: {view.curve}", width)]
    devices = snapshot.devices
    if not devices:
        return [line("no NVIDIA driver answers here", Style.DIM), *host]
    room = height - len(host) - len(rule)
    rows = min(max((room - _CHOSEN_ROWS) // len(devices) - 1, 1), _MOST_ROWS)
    chosen = min(view.chosen, len(devices) - 1)
    blocks = [
        device_lines(
            device,
            view.history,
            view.curve,
            width,
            rows + (_CHOSEN_ROWS if i == chosen else 0),
            chosen=i == chosen,
        )
        for i, device in enumerate(devices)
    ]
    first, last = chosen, chosen + 1
    size = len(blocks[chosen])
    while True:
        grown = first, last
        if last < len(blocks) and size + len(blocks[last]) <= room:
            size, last = size + len(blocks[last]), last + 1
        if first > 0 and size + len(blocks[first - 1]) <= room:
            size, first = size + len(blocks[first - 1]), first - 1
        if grown == (first, last):
            break
    if (n_hidden := len(blocks) - (last - first)) > 0:
        rule = [_rule(f"devices: {view.curve}; {n_hidden} more, arrows show them", width)]
    return [*rule, *(row for block in blocks[first:last] for row in block), *host]


def _section(title: str, lines: Sequence[Line], width: int, most: int) -> list[Line]:
    """A rule and as many of the lines as `most` allows with it; nothing without lines."""
    if not lines or most < 2:
        return []
    shown = list(lines[: most - 1])
    if len(shown) < len(lines):
        n_hidden = len(lines) - len(shown)
        title = f"{title}; {n_hidden} more {'line' if n_hidden == 1 else 'lines'}"
    return [_rule(title, width), *shown]


def _rule(title: str, width: int) -> Line:
    text = f"── {title} "
    return (Span((text + "─" * width)[:width], Style.DIM),)
