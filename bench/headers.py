"""Read mutated headers and work out their profiles: what is refused, and the most time and memory it took.

    python -m bench.headers [--cases 200000] [--first 0]

The cases are those of tests/model/header_faults.py: small models of many architectures, a split one, an
adapter and a projector, with one to four faults each, which know GGUF's structure; a case has the same bytes
in each run. Their files have holes, as those of the tests have, and lie in the memory of /dev/shm where it is
there. Time is of the processor; memory is the growth of the process's peak above the bytes that the disk
holds of the files (st_blocks). A case fails with an error that is not the project's, above 1 s, or above
64 MiB. The exit code is 1 if a case fails.
"""

import argparse
import ctypes
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.model.header_faults import FAULTS, case
from vram_llm.errors import VramLLMError
from vram_llm.model.adapter import read_adapter
from vram_llm.model.file_kind import FileKind, kind_of
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.model.projector import read_projector
from vram_llm.model.strip import write_stripped
from vram_llm.units import MIB

MOST_S, MOST_BYTES = 1.0, 64 * MIB
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_MALLOC_TRIM = ctypes.CDLL(None).malloc_trim  # what earlier cases freed goes back to the system


@dataclass
class Tally:
    """The results of the cases that a fault was in."""

    results: Counter[str] = field(default_factory=Counter)
    most_s: float = 0.0
    most_bytes: int = 0

    def add(self, result: str, seconds: float, grown_bytes: int) -> None:
        """Count one case."""
        self.results[result] += 1
        self.most_s = max(self.most_s, seconds)
        self.most_bytes = max(self.most_bytes, grown_bytes)


def analyze_all(path: Path) -> str:
    """Work out all that a program asks of a header; "accepted", or the name of the project's error."""
    try:
        header = read_header(path)
        kind = kind_of(header)
        if kind is FileKind.PROJECTOR:
            read_projector(header)
        elif kind is FileKind.ADAPTER:
            names = {tensor.name.removesuffix(".lora_a") for tensor in header.tensors}
            read_adapter(header, str(header.metadata.get("general.architecture")), names, 512)
        else:
            found = profile(header)
            repr((found.kv_bytes_per_token, found.can_rewind, found.name))
            write_stripped(header, path.with_name("stripped"))
    except VramLLMError as error:
        if not str(error).isprintable():
            raise RuntimeError(f"not one printable line: {error!r}") from None
        return type(error).__name__
    return "accepted"


def main() -> None:
    """Run the cases and print a table by fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    tallies: dict[str, Tally] = defaultdict(Tally)
    failed, begin_s = [], time.process_time()
    for number in range(given.first, given.first + given.cases):
        result, seconds, grown_bytes, faults = run_case(number)
        for fault in {*faults, "all"}:
            tallies[fault].add(result, seconds, grown_bytes)
        if result.startswith("crash") or seconds > MOST_S or grown_bytes > MOST_BYTES:
            failed.append(number)
            print(
                f"case {number} ({', '.join(faults)}): {result}, {seconds:.2f} s, {grown_bytes / MIB:.0f} MiB"
            )
    _print(tallies)
    used_s = time.process_time() - begin_s
    print(
        f"{given.cases:,} cases from {given.first:,}, {len(failed)} failed, {used_s:.0f} s of processor time"
    )
    sys.exit(1 if failed else 0)


def run_case(number: int) -> tuple[str, float, int, tuple[str, ...]]:
    """The result, processor seconds, bytes grown above the files', and the faults of a case."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    each = case(number)
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        path = each.write(Path(folder))
        allocated = sum(file.stat().st_blocks * 512 for file in Path(folder).iterdir())
        _MALLOC_TRIM(0)
        _CLEAR_REFS.write_text("5")  # the peak begins anew (proc(5))
        before, begin_s = _memory("VmRSS"), time.process_time()
        try:
            result = analyze_all(path)
        except Exception as error:  # each one is a fault to report
            result = f"crash: {error!r:.200}"
        seconds = time.process_time() - begin_s
        return result, seconds, max(_memory("VmHWM") - before - allocated, 0), each.faults


def _memory(name: str) -> int:
    """A figure of this process's memory, in bytes."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[0] == f"{name}:")


def _print(tallies: dict[str, Tally]) -> None:
    print(f"{'fault':34} {'cases':>8} {'accepted':>9} {'most ms':>8} {'most MiB':>9}  errors")
    for fault in [*sorted(FAULTS), "all"]:
        tally = tallies[fault]
        errors = ", ".join(f"{name} {n}" for name, n in tally.results.most_common() if name != "accepted")
        print(
            f"{fault:34} {tally.results.total():8,} {tally.results['accepted']:9,} {tally.most_s * 1e3:8.1f}"
            f" {tally.most_bytes / MIB:9.1f}  {errors}"
        )


if __name__ == "__main__":
    main()
