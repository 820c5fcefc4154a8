"""Faults of a running server, injected for real: what clients see, and how long it takes to recover.

    python -m bench.faults [--only TEXT] [--model FILE]

For each fault a server of a ~120M-parameter llama at Q8_0 starts, on the processor or on an RPC worker, with
two slots. When the fault comes, one stream at temperature 0 and one without a seed have begun, and four
requests wait, two of them streams; two more arrive a fifth of a second later. The table has:

- the stream at temperature 0, and the one without a seed;
- the six requests that had not streamed: answered of sent, and, in the last column, how many were lost;
- the time from the fault, or from the end of the process that it hit, until /health answered 503;
- the recovery: from the end of the cause until /health is 200 again for good, which may be before;
- the load, from the start of the last engine's process.

Needs Linux, root and cgroups for the faults of memory and disk.
"""

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.faults.causes import FAULTS, Fault
from bench.faults.clients import Client, HealthWatch
from bench.faults.rig import PARALLEL, Rig, serving, small_disk, worker
from tests.memory_group import memory_group
from tools.random_model import write_120m, write_llama
from vram_llm.units import GIB

_STREAM_TOKENS, _TOKENS = 150, 8
_N_WAITING, _N_LATE, _LATE_S = 4, 2, 0.2
_LIMIT_S = 180.0
_HEADERS = ("fault", "stream, temperature 0", "stream, no seed", "queued", "/health", "recovery", "load",
            "lost")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one fault did. Times in seconds; None: it did not happen within the limit, or at all."""

    repeatable: str
    other: str
    queued: tuple[str, ...]
    noticed_s: float | None
    recovery_s: float | None
    load_s: float | None
    reason: str

    def row(self, fault: Fault) -> str:
        """The table's row."""
        answered = sum(each == "answered" for each in self.queued)
        cells = (
            fault.name,
            "continues" if self.repeatable == "answered" else self.repeatable,
            self.other,
            f"{answered} of {len(self.queued)}",
            "-" if self.noticed_s is None else _duration(self.noticed_s),
            _recovery(self.recovery_s),
            "-" if self.load_s is None else _duration(self.load_s),
            str(len(self.queued) - answered),
        )
        return "| " + " | ".join(cells) + " |"


def _recovery(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return _duration(seconds) if seconds >= 0 else f"{_duration(-seconds)} before its end"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


async def observe(fault: Fault, rig: Rig) -> Outcome:
    """Inject a fault while clients are served."""
    health = HealthWatch(rig.port)
    watching = asyncio.create_task(health.run())
    clients = [await Client.connect(rig.port) for _ in range(PARALLEL + _N_WAITING + _N_LATE)]
    begun, waiting, late = clients[:2], clients[2 : 2 + _N_WAITING], clients[2 + _N_WAITING :]
    for client, options in zip(begun, ({"temperature": 0}, {"temperature": 1}), strict=True):
        client.ask(_STREAM_TOKENS, stream=True, **options)
    await asyncio.gather(*(client.begun() for client in begun))
    for i, client in enumerate(waiting):
        client.ask(_TOKENS, stream=i % 2 == 0)
    await asyncio.sleep(0.1)  # the requests reach the queue
    first = rig.engine
    at = time.monotonic()
    injecting = asyncio.create_task(_inject(fault, rig))
    await asyncio.sleep(_LATE_S)  # late clients come after the fault
    for client in late:
        client.ask(_TOKENS, stream=False)
    gone_at = await injecting
    await _until_replaced(rig, None if first is None else first.pid, health, at)
    bad = health.first(503, at)
    last = health.seen[-1]
    good = last if bad is not None and last[1] == 200 else None
    engine = rig.engine
    started_at = None if engine is None else _started_at(engine.pid)
    ends = [await client.end(_LIMIT_S if good else 1.0) for client in clients]
    watching.cancel()
    reasons = [text for when, status, text in health.seen if status == 503 and when >= at]
    return Outcome(
        repeatable=ends[0],
        other=ends[1],
        queued=tuple(ends[2:]),
        noticed_s=None if bad is None else max(bad[0] - (rig.hit_at or at), 0.0),
        recovery_s=None if good is None else good[0] - gone_at,
        load_s=None if good is None or started_at is None else good[0] - started_at,
        reason=max(reasons, key=len, default="")
        + ("" if rig.group is None else f" (ended by the kernel: {rig.group.kills})"),
    )


def _started_at(pid: int) -> float:
    """When a process started, by time.monotonic(). psutil rounds the boot time to a second."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age_s


async def _inject(fault: Fault, rig: Rig) -> float:
    await fault.inject(rig)
    return time.monotonic()


async def _until_replaced(rig: Rig, pid: int | None, health: HealthWatch, at: float) -> None:
    """Wait until another engine serves, or the limit is over."""
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        engine = rig.engine
        is_new = engine is not None and engine.pid != pid
        if is_new and health.seen[-1][1] == 200 and health.seen[-1][0] > at:
            return
        await asyncio.sleep(0.05)  # between two looks


def run(fault: Fault, model: Path, other: Path, folder: Path) -> Outcome:
    """Start what the fault needs, and observe it."""
    data = folder / "data"
    data.mkdir()
    own = folder / "model.gguf"
    shutil.copyfile(model, own)
    shutil.copyfile(other, folder / "other.gguf")
    with ExitStack() as stack:
        group = stack.enter_context(memory_group(4 * GIB)) if fault.in_group else None
        lent = stack.enter_context(worker()) if fault.on_worker else None
        if fault.small_disk:
            stack.enter_context(small_disk(data))
        more = ("--no-mmap",) if fault.in_group else ()  # the kernel can take back pages of a mapped file
        rig = stack.enter_context(serving(own, data, group=group, lent=lent, more=more))
        return asyncio.run(observe(fault, rig))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="faults whose name has this text")
    parser.add_argument("--model", type=Path, help="in place of the random one")
    args = parser.parse_args()
    print("| " + " | ".join(_HEADERS) + " |")
    print("|" + "---|" * len(_HEADERS), flush=True)
    reasons = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or write_120m(folder / "120m-Q8_0.gguf")
        other = write_llama(folder / "other.gguf", n_embd=64, seed=9)
        for i, fault in enumerate(each for each in FAULTS if args.only in each.name):
            (folder / str(i)).mkdir()
            outcome = run(fault, model, other, folder / str(i))
            shutil.rmtree(folder / str(i))
            reasons.append(f"{fault.name}: {outcome.reason}")
            print(outcome.row(fault), flush=True)
    print("\n/health:\n", *reasons, sep="\n")


if __name__ == "__main__":
    main()
