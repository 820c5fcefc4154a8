"""Write a measured plan as rows to share: a CSV file that names no user and no computer."""

import csv
import datetime
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.machine.host import ROOT
from vram_llm.machine.private_text import private_names
from vram_llm.machine.software import operating_system, package_versions
from vram_llm.planner.shared_speed import COLUMNS, SharedFacts, shared_rows
from vram_llm.workflows.saved_plans import profile_of

if TYPE_CHECKING:
    from vram_llm.planner.measured_speed import MeasuredSpeed
    from vram_llm.planner.types import Plan


def check_share_file(path: Path) -> None:
    """Raises ValueError unless rows can be written to `path`: a new CSV file, or one of such rows."""
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{path.name}: rows are written as CSV; give --share a name that ends in .csv")
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        if tuple(next(csv.reader(stream), ())) != COLUMNS:
            raise ValueError(f"{path.name} has other columns; give --share the name of a new file")


def share(plan: "Plan", results: "Sequence[MeasuredSpeed]", path: Path) -> None:
    """Append the rows of a measured plan to `path`, which is made with a line of column names."""
    check_share_file(path)
    versions = package_versions(("vram-llm", "llama-cpp-python"))
    facts = SharedFacts(
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        vram_llm=versions["vram-llm"] or "",
        llama_cpp_python=versions["llama-cpp-python"] or "",
        os=operating_system(ROOT).name,
    )
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    names = private_names()
    for row in shared_rows(plan, profile_of(plan), results, facts):
        writer.writerow({column: names.without(value) for column, value in row.items()})
    with path.open("a", encoding="utf-8", newline="") as stream:
        stream.write(text.getvalue())
