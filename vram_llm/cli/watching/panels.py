"""The panels of `watch` as lines of text: pure functions of a snapshot, its history and a width."""

from collections.abc import Sequence

from vram_llm.cli.watching.drawing import curve, fitted, flow, gauge, padded
from vram_llm.cli.watching.history import Curve, History, ratio
from vram_llm.cli.watching.process_sort import SORTS, ProcessSort
from vram_llm.cli.watching.snapshot import (
    Snapshot,
    WatchedFleetModel,
    WatchedHost,
    WatchedRequest,
    WatchedTotals,
)
from vram_llm.machine.device_state import DeviceState
from vram_llm.text.lines import Line, Span, Style, line, printable, shorten, text_of, wrap
from vram_llm.text.names import short_name
from vram_llm.text.table import Column, table
from vram_llm.units import GIB, format_bytes, format_count

_TIGHT_MEMORY = 0.97
_NARROW = 70  # columns; below it labels are shorter
_MANY_ROWS = 4  # from here on facts have lines of their own
_STATES = {"ready": Style.GOOD, "failed": Style.BAD}
_UNKNOWN = "-"


def head_line(snapshot: Snapshot | None, gone: str | None, width: int) -> Line:
    """The watched server or computer, and whether it answers. `gone` says why there is no answer now."""
    if gone is not None:
        return line(shorten(printable(gone), width), Style.BAD)
    if snapshot is None:
        return line("asking ...", Style.DIM)
    if snapshot.address is None:
        note = printable(snapshot.note or "")
        return fitted((Span("this computer", Style.STRONG), Span(f"  {note}", Style.DIM)), width)
    parts = [Span(snapshot.address.partition("://")[2], Style.STRONG)]
    if snapshot.models is not None:
        n_loaded = sum(each.state == "resident" for each in snapshot.models)
        parts.append(Span(f"  {len(snapshot.models)} models, {n_loaded} loaded"))
    elif (model := snapshot.model) is not None:
        context = "" if model.n_ctx is None else f"  {format_count(model.n_ctx)} context"
        streams = "" if model.parallel is None else f", {model.parallel} at once"
        parts += [Span(f"  {printable(model.id)}"), Span(context + streams, Style.DIM)]
    if (engine := snapshot.engine) is not None:
        parts.append(Span(f"  {printable(engine.state)}", _STATES.get(engine.state, Style.TIGHT)))
        if engine.uptime_s is not None:
            parts.append(Span(f" {duration(engine.uptime_s)}", Style.DIM))
        if engine.n_restarts:
            parts.append(Span(f"  {engine.n_restarts} restarts", Style.TIGHT))
        if engine.reason:
            parts.append(Span(f"  {printable(engine.reason)}", Style.TIGHT))
    return fitted(tuple(parts), width)


def load_lines(snapshot: Snapshot, history: History, width: int) -> list[Line]:
    """Tokens per second with their curves; queue, KV use, hits and latencies. Empty without a server."""
    load = snapshot.load
    if load is None:
        return []
    half = max(width // 2 - 1, 10)
    rates = [
        ("tok/s", load.generation_tokens_per_s, history.generation_rates),
        ("prompt tok/s", load.prompt_tokens_per_s, history.prompt_rates),
    ]
    first: list[Span] = []
    for label, rate, values in rates:
        figure = f"{label} {_UNKNOWN if rate is None else f'{rate:,.1f}':>8} "
        top = max((value for value in values if value is not None), default=0.0)
        drawn = curve(list(values), half - len(figure) - 1, 1, top)[0]
        first += padded((Span(figure), Span(drawn, Style.GOOD)), half)
        first.append(Span("  "))
    facts = [
        f"running {load.n_running}",
        f"waiting {load.n_waiting}",
        *([] if load.prefix_hit_rate is None else [f"prefix hits {load.prefix_hit_rate:.0%}"]),
        *_draft_facts(snapshot.totals),
        *([] if load.time_to_first_token_s is None else [f"TTFT {seconds(load.time_to_first_token_s)}"]),
        *([] if load.inter_token_latency_s is None else [f"ITL {seconds(load.inter_token_latency_s)}"]),
        *(
            []
            if load.predicted_tokens_per_s is None
            else [f"planned {load.predicted_tokens_per_s:,.1f} tok/s"]
        ),
    ]
    kv = _UNKNOWN if load.kv_usage is None else f"{load.kv_usage:.0%}"
    used = (Span(f"KV {kv:>4} "), *gauge(load.kv_usage, min(20, width // 6), 0.9), Span("  "))
    rest = flow(facts, width - len(text_of(used)), 1)[0]
    return [fitted(tuple(first), width), (*used, Span(rest))]


def _draft_facts(totals: WatchedTotals | None) -> list[str]:
    """The share of drafted tokens that were accepted, if there were any."""
    if totals is None or not totals.drafted_tokens:
        return []
    return [f"drafts taken {totals.accepted_tokens / totals.drafted_tokens:.0%}"]


def device_lines(
    device: DeviceState, history: History, shown: Curve, width: int, rows: int, *, chosen: bool = False
) -> list[Line]:
    """A device in 1 + `rows` lines: its bars, then its curve with facts at the right of it, or above it."""
    title = _title(device, width, chosen=chosen)
    if rows >= _MANY_ROWS:
        facts = [fact for fact in flow(device_facts(device), width - 2, 2) if fact]
        drawn = curve(history.of(device, shown), width - 2, rows - len(facts))
        wide = [
            *(Span(f"  {fact}", Style.DIM) for fact in facts),
            *(Span(f"  {plot}", Style.GOOD) for plot in drawn),
        ]
        return [title, *(fitted((each,), width) for each in wide)]
    left = max(width * 2 // 5, 12)
    drawn = curve(history.of(device, shown), left - 2, rows)
    facts = flow(device_facts(device), width - left - 1, rows)
    below = [
        (Span("  "), Span(plot, Style.GOOD), Span(" "), Span(fact, Style.DIM))
        for plot, fact in zip(drawn, facts, strict=True)
    ]
    return [title, *(fitted(each, width) for each in below)]


def _title(device: DeviceState, width: int, *, chosen: bool) -> Line:
    is_narrow = width < _NARROW
    gib = f"{_gib(device.used_bytes)}/{_gib(device.total_bytes)} GiB"
    percent = _UNKNOWN if device.utilization is None else f"{device.utilization:.0%}"
    use, memory = (f"{percent:>4} ", gib + " ") if is_narrow else (f"GPU {percent:>4} ", f"MEM {gib:>16} ")
    bars = min(max((width - 30 - len(use) - len(memory)) // 2, 4), 40)
    name_width = max(width - len(use) - len(memory) - 2 * bars - 3, 8)
    name = shorten(f"{device.id} {short_name(printable(device.name))}", name_width - 2)
    mark = "> " if chosen else "  "
    return fitted(
        (
            *padded((Span(mark + name, Style.STRONG),), name_width),
            Span(" " + use),
            *gauge(device.utilization, bars),
            Span("  " + memory),
            *gauge(ratio(device.used_bytes, device.total_bytes), bars, _TIGHT_MEMORY),
        ),
        width,
    )


def device_facts(device: DeviceState) -> list[str]:
    """The facts of a device apart from use and memory, the most important first."""
    facts = []
    if device.temperature_c is not None:
        facts.append(f"{device.temperature_c} °C")
    if device.power_w is not None:
        limit = "" if device.power_limit_w is None else f"/{device.power_limit_w:.0f}"
        facts.append(f"{device.power_w:.0f}{limit} W")
    if device.pcie is not None and device.pcie.width is not None:
        facts.append(str(device.pcie))
    if device.throttle_reasons:
        facts.append(f"slowed by {', '.join(device.throttle_reasons)}")
    if device.clock_mhz is not None:
        most = "" if device.max_clock_mhz is None else f"/{device.max_clock_mhz:,}"
        facts.append(f"{device.clock_mhz:,}{most} MHz")
    if device.pcie is not None and device.pcie.rx_bytes_per_s is not None:
        sent = device.pcie.tx_bytes_per_s or 0
        facts.append(f"RX {format_bytes(device.pcie.rx_bytes_per_s)}/s TX {format_bytes(sent)}/s")
    if device.layers is not None:
        facts.append(f"layers {device.layers[0]}-{device.layers[1]}")
    if device.own_bytes is not None:
        facts.append(f"engine {format_bytes(device.own_bytes)}")
    if device.fan is not None:
        facts.append(f"fan {device.fan:.0%}")
    if device.memory_utilization is not None:
        facts.append(f"memory busy {device.memory_utilization:.0%}")
    return [printable(fact) for fact in facts]


def host_line(host: WatchedHost, width: int) -> Line:
    """The host's memory."""
    used = host.total_bytes - host.available_bytes
    own = "" if host.own_bytes is None else f"  engine {format_bytes(host.own_bytes)}"
    swap = f"  swap {format_bytes(host.swap_used_bytes)}" if host.swap_used_bytes else ""
    text = f"  host  {_gib(used)}/{_gib(host.total_bytes)} GiB "
    bar = gauge(ratio(used, host.total_bytes), min(20, width // 6), _TIGHT_MEMORY)
    return fitted((Span(text, Style.STRONG), *bar, Span(own + swap, Style.DIM)), width)


def warning_lines(snapshot: Snapshot, width: int, room: int | None = None) -> list[Line]:
    """The warnings, those that stop serving first; each cut to one line if all need more than `room`."""
    lines: list[Line] = []
    short: list[Line] = []
    for warning in sorted(snapshot.warnings, key=lambda warning: not warning.stops_serving):
        style = Style.BAD if warning.stops_serving else Style.TIGHT
        text = f"! {printable(warning.text)}"
        lines += wrap(text, width, style, "  ")
        short.append(line(shorten(text, width), style))
    return lines if room is None or len(lines) <= room else short


def process_lines(devices: Sequence[DeviceState], sort: ProcessSort, width: int) -> list[Line]:
    """The programs with memory on cards, below a row of titles."""
    rows = [(device.id, process) for device in devices for process in device.processes or ()]
    if not rows:
        return [line("no program that the driver names holds memory of a card", Style.DIM)]
    rows.sort(key=sort.key, reverse=sort.is_descending)
    titles = [Column(title=f"{name}{sort.mark(name)}", right=name in ("pid", "memory")) for name in SORTS[:3]]
    cells = [
        (
            str(process.pid),
            device_id,
            _UNKNOWN if process.bytes is None else format_bytes(process.bytes),
            printable(process.name or "?"),
        )
        for device_id, process in rows
    ]
    last = Column(title=f"program{sort.mark('program')}", least=8)
    return table([*titles, last], cells, width) or []


def model_lines(snapshot: Snapshot, width: int) -> list[Line]:
    """The models of a fleet, below a row of titles; none if the server has one model."""
    if not snapshot.models:
        return []
    columns = [
        Column(title="model", least=8),
        Column(title="state"),
        *(Column(title=title, right=True) for title in ("running", "waiting", "tok/s")),
        Column(title="memory", least=8),
    ]
    return table(columns, [_model_cells(model) for model in snapshot.models], width) or []


def _model_cells(model: WatchedFleetModel) -> tuple[str, ...]:
    load = model.load
    rate = None if load is None else load.generation_tokens_per_s
    places = (f"{format_bytes(n)} {device}" for device, n in model.device_bytes.items() if n)
    return (
        printable(model.id),
        printable(model.state),
        _UNKNOWN if load is None else str(load.n_running),
        str(model.waiting + (0 if load is None else load.n_waiting)),
        _UNKNOWN if rate is None else f"{rate:,.1f}",
        printable(", ".join(places)) or _UNKNOWN,
    )


def request_lines(requests: Sequence[WatchedRequest], width: int) -> list[Line]:
    """The requests in flight, below a row of titles; none without a request."""
    if not requests:
        return []
    columns = [
        Column(title="request", least=8),
        Column(title="state"),
        *(Column(title=title, right=True) for title in ("prompt", "cached", "generated", "age")),
    ]
    cells = [
        (
            printable(each.id),
            printable(each.state),
            _UNKNOWN if each.prompt_tokens is None else f"{each.prompt_tokens:,}",
            _UNKNOWN if each.cached_tokens is None else f"{each.cached_tokens:,}",
            f"{each.generated_tokens:,}",
            _UNKNOWN if each.age_s is None else duration(each.age_s),
        )
        for each in requests
    ]
    return table(columns, cells, width) or []


def duration(seconds_: float) -> str:
    """ "42 s", "12 min", "3 h 05", "2 d 4 h"."""
    minutes, hours, days = int(seconds_ // 60), int(seconds_ // 3600), int(seconds_ // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60:02}"
    return f"{minutes} min" if minutes else f"{seconds_:.0f} s"


def seconds(value: float) -> str:
    """A latency: "420 ms", "2.31 s"."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def _gib(n_bytes: int | None) -> str:
    return _UNKNOWN if n_bytes is None else f"{n_bytes / GIB:.1f}"
