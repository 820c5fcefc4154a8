"""How long a what-if answer takes: POST /plan's process, for a 49B on three cards.

    python -m bench.dashboard [MODEL.gguf]

Without MODEL, the header of the 49B is written as the tests write it. Each move changes one setting, as the
page's sliders do. It prints the median and the longest of all moves; the first answer starts the process and
stands apart. The times are those of the server's end: waiting and JSON count, HTTP does not.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests import zoo
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Host
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Workload
from vram_llm.server.ui.plan_fields import PlanFields
from vram_llm.units import GIB
from vram_llm.workflows.detection import analyze
from vram_llm.workflows.what_if.planner import WhatIfProcess

RIG = ("RTX 4090", "RTX 3090", "RTX 3060 12GB")
OTHERS = (["RTX 4090", "2x RTX 3060 12GB"], ["3x RTX 3060 12GB"], ["RTX 3090", "2x RTX 4060 Ti 16GB"])
HOST = Host(name="desk", cores=16, total_bytes=64 * GIB, available_bytes=60 * GIB)
_LENGTHS = (4096, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 98304, 131072)


def moves() -> Iterator[PlanFields]:
    """Each setting moved alone, on this rig and on the others."""
    for devices in (None, *OTHERS):
        for n_ctx in _LENGTHS:
            yield PlanFields(devices=devices, n_ctx=n_ctx)
        for kv_type in ("q8_0", "q4_0"):
            yield PlanFields(devices=devices, kv_type=kv_type)
        for gib in (0, 2, 4):
            yield PlanFields(devices=devices, reserve_bytes=gib * GIB)
        for objective in ("throughput", "balance", "context"):
            yield PlanFields(devices=devices, objective=objective)
        for parallel in (1, 8, 32):
            yield PlanFields(devices=devices, parallel=parallel)


async def measure(model: Path) -> None:
    """Ask every move once, and print the times."""
    machine = what_if([" + ".join(RIG)], HOST)
    plan = make_plan(analyze(str(model)), machine, Workload(n_ctx=16384))
    process = WhatIfProcess(lambda: plan)
    times: list[tuple[float, float, PlanFields]] = []
    try:
        for move in [PlanFields(), *moves()]:
            began = time.perf_counter()
            reply = json.loads(await process(move))
            times.append((time.perf_counter() - began, reply["seconds"], move))
    finally:
        await process.close()
    (first_s, _, _), rest = times[0], times[1:]
    longest_s, _, longest = max(rest, key=lambda each: each[0])
    print(f"{plan.model.name}, {len(rest)} moves on {' + '.join(RIG)} and {len(OTHERS)} other rigs")
    print(f"median {1000 * statistics.median(each[0] for each in rest):.0f} ms, of it "
          f"{1000 * statistics.median(each[1] for each in rest):.0f} ms planning")  # fmt: skip
    print(f"longest {1000 * longest_s:.0f} ms ({longest.model_dump_json(exclude_none=True)})")
    print(f"first, with the start of the process: {1000 * first_s:.0f} ms")


def main() -> None:
    """Run the measurement."""
    if len(sys.argv) > 1:
        asyncio.run(measure(Path(sys.argv[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "49b.gguf")
        zoo.write(zoo.nemotron_49b(), path, "Q4_K")
        asyncio.run(measure(path))


if __name__ == "__main__":
    main()
