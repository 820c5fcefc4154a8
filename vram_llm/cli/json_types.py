"""The types of each --json, from which the schemas in vram_llm/schemas are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from vram_llm.cli.analyze_json import AnalyzedModel
from vram_llm.cli.config import EffectiveConfig
from vram_llm.cli.json_document import VERSION
from vram_llm.cli.planned_fleet import PlannedFleet
from vram_llm.cli.watching.snapshot import Snapshot
from vram_llm.machine.calibration_store import CalibrationRecord
from vram_llm.machine.disk_store import DiskRecord
from vram_llm.machine.sum_store import SumRecord
from vram_llm.machine.types import Machine
from vram_llm.planner.compare import ComparisonRow
from vram_llm.planner.fleet.types import FLEET_VERSION
from vram_llm.planner.floor import MemoryFloor
from vram_llm.planner.measured_speed import MeasuredSpeed
from vram_llm.planner.memory_report import MemoryReport
from vram_llm.planner.recheck import DeviceFit
from vram_llm.planner.types import PLAN_VERSION, Plan
from vram_llm.workflows.diagnosis import Diagnosis
from vram_llm.workflows.model_list import ListedModel
from vram_llm.workflows.quantizations import Quantizations
from vram_llm.workflows.tuning.results import TuneResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModels:
    """`models --json`."""

    models: tuple[ListedModel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPlan:
    """`plan --check FILE --json`."""

    fits: bool
    devices: tuple[DeviceFit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPlans:
    """`plan MODEL --compare RIG --json`."""

    plans: tuple[ComparisonRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResults:
    """`bench model --json`, in tokens a second."""

    tests: tuple[MeasuredSpeed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """`calibrate --json`: by UUID or PCI address of a card, address of a worker, name of the processor."""

    devices: dict[str, CalibrationRecord]
    disks: dict[str, DiskRecord]  # by the place where they are mounted
    sums: dict[str, SumRecord]  # by the devices' keys, "A + B"


DOCUMENTS: Mapping[str, type] = {
    "analyze": AnalyzedModel,
    "bench-model": BenchResults,
    "calibrate": Calibration,
    "check": CheckedPlan,
    "compare": ComparedPlans,
    "doctor": Diagnosis,
    "config": EffectiveConfig,
    "fleet-plan": PlannedFleet,
    "floor": MemoryFloor,
    "machine": Machine,
    "models": ListedModels,
    "plan": Plan,
    "quantizations": Quantizations,
    "tune": TuneResult,
    "verify": MemoryReport,
    "watch": Snapshot,
}
"""By the name of the schema."""


def schema(name: str) -> dict[str, Any]:
    """The JSON schema of one of DOCUMENTS. Every field is printed, so every field is required."""
    of = DOCUMENTS[name]
    (reference, *_), parts = msgspec.json.schema_components([of], ref_template="#/$defs/{name}")
    for part in parts.values():
        if "properties" in part:
            part["required"] = list(part["properties"])
            for field in part["properties"].values():
                field.pop("default", None)
    top = parts.pop(reference["$ref"].rpartition("/")[2])
    version = {Plan: PLAN_VERSION, PlannedFleet: FLEET_VERSION}.get(of, VERSION)
    top["properties"] = {"version": {"const": version}} | {
        key: value for key, value in top["properties"].items() if key != "version"
    }
    top["required"] = list(top["properties"])
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **top}
    return found | ({"$defs": parts} if parts else {})
