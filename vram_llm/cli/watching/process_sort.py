"""The order of the programs in the table."""

from dataclasses import dataclass, replace
from typing import Any

from vram_llm.machine.device_state import ProcessState

SORTS = ("pid", "device", "memory", "program")


@dataclass(frozen=True, slots=True)
class ProcessSort:
    """A column of SORTS, and its direction."""

    column: str = "memory"
    is_descending: bool = True

    def next(self) -> "ProcessSort":
        """The next column: numbers begin with the largest, names with the first."""
        column = SORTS[(SORTS.index(self.column) + 1) % len(SORTS)]
        return ProcessSort(column, is_descending=column == "memory")

    def directed(self, *, is_descending: bool) -> "ProcessSort":
        """The same column in a direction."""
        return replace(self, is_descending=is_descending)

    def key(self, row: tuple[str, ProcessState]) -> Any:
        """The sort key of a row: a device's id and a program."""
        device_id, process = row
        keys = {
            "pid": process.pid,
            "device": (len(device_id), device_id),  # GPU2 before GPU10
            "memory": process.bytes or 0,
            "program": (process.name or "").lower(),
        }
        return keys[self.column]

    def mark(self, column: str) -> str:
        """The arrow after the title of the column that is sorted by."""
        return "" if column != self.column else "↓" if self.is_descending else "↑"
