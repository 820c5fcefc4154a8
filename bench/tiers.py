"""A model that is larger than the memory it may use, served from the disk: predicted and measured speed.

    python -m bench.tiers [--limit 2GiB] [--size 3b] [--tokens 24] [--folder FOLDER] [--seconds 8]

A random llama of 3.2 GB (--size 3b) is written to FOLDER, the processor and the disk are calibrated, and
`vram-llm serve` runs in a cgroup that allows less memory than the model has. Three times some tokens are
decoded: at first, after the page cache was dropped, and once more. The lines give the refusal without
--from-disk, the prediction, the measured medians and what they differ by, bytes read for a token, the most
memory used and processes killed for lack of it.

    python -m bench.tiers --published

prints the plans for Llama 3.1 70B on an RTX 3090 and 48 GiB of memory term by term, beside published figures
of a program that sends the weights in memory over PCIe for every token (NTransformer, 2026-02: PCIe 3 x8,
"about 6.5 GB/s"; 0.2 tok/s at Q6_K, 0.3 at Q4_K_M, 0.5 if it skips 20 of the 80 layers).

The first form needs Linux, root and an idle computer.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.load import complete
from bench.servers import free_port, running
from tests import zoo
from tests.memory_group import MemoryGroup, drop_from_cache, memory_group
from tools.random_model import SIZES, write_sized
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.planner.types import DISK, HOST, Plan, Workload
from vram_llm.units import GIB, MIB, format_bytes, parse_bytes
from vram_llm.workflows import detection, planning

_PLAN = ("--n-ctx", "2048", "--parallel", "1", "--reserve-mib", "512")
_DROP = Path("/proc/sys/vm/drop_caches")
_ENGINE = "vram_llm.engine.worker"
_LINK_BYTES_PER_S = 6.5e9  # of PCIe 3 x8, as published


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--limit", type=parse_bytes, default=2 * GIB)
    parser.add_argument("--size", choices=list(SIZES), default="3b")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=8, help="of calibration")
    parser.add_argument("--folder", type=Path, help="on the disk to read from")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        os.environ[DATA_DIR_VARIABLE] = str(folder / "data")
        if args.published:
            published(folder)
            return
        if (free := shutil.disk_usage(folder).free) < 12 * GIB:
            raise SystemExit(f"{folder} has {format_bytes(free)} free, not 12 GiB; name another --folder")
        model = write_sized(folder / f"{args.size}-Q8_0.gguf", args.size, 32000)
        vram_llm("calibrate", "--model", model, "--seconds", str(args.seconds))
        try:
            with memory_group(args.limit) as group:
                measured(group, model, args.limit, args.tokens)
        except PermissionError as error:
            raise SystemExit(f"no cgroup can be made here ({error}): root is needed") from error


def vram_llm(*words: str | Path, group: MemoryGroup | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `vram-llm`, in a group."""
    command = [sys.executable, "-m", "vram_llm", *map(str, words)]
    command = command if group is None else group.command(*command)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def measured(group: MemoryGroup, model: Path, limit_bytes: int, n_tokens: int) -> None:
    """Plan, serve and measure in a group."""
    drop_from_cache([model])  # pages that another group has read would cost this one nothing
    print(
        f"model             {format_bytes(model.stat().st_size)}, memory allowed {format_bytes(limit_bytes)}"
    )
    refused = vram_llm("serve", model, *_PLAN, "--port", "0", group=group)
    print(f"without the flag  exit code {refused.returncode}: {refused.stderr.strip()}")
    planned = vram_llm("plan", model, *_PLAN, "--from-disk", "--json", group=group)
    if planned.returncode:
        raise SystemExit(planned.stderr)
    plan = json.loads(planned.stdout)
    reads, step_s = plan["disk_reads"], plan["speed"]["step_s"]
    rate = reads["bytes_per_s"]["value"] / 1e9
    waits = {each["id"]: each["seconds"] for each in plan["speed"]["devices"]}
    print(
        f"predicted         {1 / step_s:.3f} tok/s ({plan['speed']['basis']}): {step_s:.2f} s a token, "
        f"{waits[HOST]:.2f} s of it computation, {waits[DISK]:.2f} s more for "
        f"{format_bytes(reads['dense_bytes'])} at {rate:.2f} GB/s; "
        f"{format_bytes(reads['resident_bytes'])} stay in memory"
    )
    port = free_port()
    serve: list[str | int | Path] = [
        sys.executable,
        "-m",
        "vram_llm",
        "serve",
        model,
        *_PLAN,
        "--from-disk",
        "--port",
        port,
    ]
    with running(group.command(*serve), port, model.with_suffix(".log")):
        decode(group, port, 4)  # the first tokens find what the load has left
        for when in ("", ", the page cache dropped", ", again"):
            if "dropped" in when:
                _DROP.write_text("1")
            seconds, read_bytes = decode(group, port, n_tokens)
            print(
                f"measured          {1 / seconds:.3f} tok/s: {seconds:.2f} s a token, "
                f"{step_s / seconds - 1:+.1%} against predicted, {format_bytes(read_bytes)} read each{when}",
                flush=True,
            )
    peak = "not known" if group.peak_bytes is None else format_bytes(group.peak_bytes)
    print(f"memory            at most {peak} of {format_bytes(limit_bytes)}; {group.kills} processes killed")


def decode(group: MemoryGroup, port: int, n_tokens: int) -> tuple[float, float]:
    """The median time of a token, in seconds, and the bytes that the engine read from the disk for each."""
    engine = next(process for process in map(psutil.Process, group.processes) if _ENGINE in process.cmdline())
    before = engine.io_counters().read_bytes
    stream = asyncio.run(complete(port, [1, 300, 301, 302], n_tokens + 1))
    read = engine.io_counters().read_bytes - before
    return statistics.median(stream.gaps_s), read / (n_tokens + 1)


def published(folder: Path) -> None:
    """Print the plans for Llama 3.1 70B beside published speeds."""
    machine = detection.detect("RTX 3090 @ PCIe 3 x8 on 48GiB DDR4-3200 2ch, 6.5GB/s")
    wish = Workload(n_ctx=4096, parallel=1, reserve_bytes=512 * MIB, from_disk=True)
    for quantization, build, known in (
        ("Q4_K_M", zoo.as_q4_k_m, "0.3, and 0.5 with 20 layers skipped"),
        ("Q6_K", None, "0.2"),
        ("Q8_0", None, ""),
    ):
        model = zoo.llama(80, 8192, 64, 8, 28672)
        file = folder / f"70b-{quantization}.gguf"
        if build is None:
            zoo.write(model, file, quantization)
        else:
            zoo.write(build(model), file, "Q4_K")
        plan = planning.plan(str(file), machine, wish)
        print(f"Llama 3.1 70B {quantization}, {format_bytes(plan.model.total_bytes)}")
        for line in terms(plan):
            print(f"    {line}")
        if known:
            print(f"    published: {known} tok/s")


def terms(plan: Plan) -> Sequence[str]:
    """The speed of a plan, and that of sending its host's weights over the link, term by term."""
    assert plan.speed is not None
    times = {each.id: each.seconds for each in plan.speed.devices}
    on_host = plan.estimate.host.weights_bytes - _embedding_bytes(plan)
    parts = " + ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
    reads = plan.disk_reads
    read = "all in memory" if reads is None else f"{format_bytes(reads.token_bytes)} read for each token"
    card_s = sum(seconds for name, seconds in times.items() if name not in (HOST, DISK))
    sent_s = on_host / _LINK_BYTES_PER_S
    return (
        f"planned: {plan.speed.tokens_per_s:.2f} tok/s = 1 / ({parts}); {format_bytes(on_host)} on the CPU, "
        f"{read}",
        f"sent over PCIe 3 x8 instead: {1 / (card_s + sent_s):.2f} tok/s = 1 / ({card_s:.2f} s + "
        f"{on_host / 1e9:.1f} GB / {_LINK_BYTES_PER_S / 1e9} GB/s)",
    )


def _embedding_bytes(plan: Plan) -> int:
    """Bytes of the input embedding, of which a token reads one row."""
    return detection.analyze(plan.model.path).token_embd_bytes


if __name__ == "__main__":
    main()
