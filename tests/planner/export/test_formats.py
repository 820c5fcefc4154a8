"""Plans as JSON, and damaged files of plans."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import DESKTOP, LAPTOP, machine, profile_of
from vram_llm.errors import BadPlan
from vram_llm.planner.export.formats import from_json, to_json
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Workload


def with_override(pattern: str, device: str) -> Callable[[bytes], bytes]:
    """A function that adds an override to the JSON of a plan without overrides."""
    override = json.dumps({"pattern": pattern, "device": device, "part": None, "layers": []}).encode()
    return lambda text: text.replace(b'"overrides": []', b'"overrides": [' + override + b"]", 1)


@pytest.fixture
def document(tmp_path: Path) -> bytes:
    rig = machine([LAPTOP, DESKTOP])
    return to_json(make_plan(profile_of(zoo.llama(), tmp_path), rig, Workload(n_ctx=4096)))


def test_a_plans_json_has_the_fields_that_other_programs_read(document: bytes) -> None:
    found = json.loads(document)
    assert found["fits"] is True
    assert {"id", "name", "kind", "total_bytes", "free_bytes", "reserve_bytes"} <= found["devices"][0].keys()
    assert {
        "device_order", "layers_per_device", "output_device", "cpu_layers", "tensor_split", "n_gpu_layers",
        "overrides", "split_mode",
    } == found["placement"].keys()  # fmt: skip
    assert {"n_ctx", "parallel", "kv_type_k", "kv_type_v"} <= found["context"].keys()
    assert found["estimate"]["method"] == "analytic"
    assert {
        "id", "weights_bytes", "context_bytes", "compute_bytes", "overhead_bytes", "total_bytes",
        "budget_bytes", "companion_bytes", "shared_bytes",
    } == found["estimate"]["devices"][0].keys()  # fmt: skip
    assert {"weights_bytes", "context_bytes", "compute_bytes", "total_bytes"} <= found["estimate"][
        "host"
    ].keys()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not a plan"),
        (lambda text: b"[]", "is not a plan"),
        (lambda text: text.replace(b'"n_gpu_layers"', b'"layers"'), "n_gpu_layers"),
        (lambda text: text.replace(b'"version": 1', b'"version": 99'), "version 99"),
        (lambda text: b"\xff\xfe", "is not a plan"),
        (lambda text: text.replace(b'"n_ctx": 4096', b'"n_ctx": -4096'), "a size below 1"),
        (lambda text: text.replace(b'"kv_type_k": "f16"', b'"kv_type_k": "nope"', 1), "no KV type 'nope'"),
        (lambda text: text.replace(b'"n_layers": 32', b'"n_layers": 33'), "add up to 32 of 33"),
        (lambda text: text.replace(b'"id": "GPU0"', b'"id": "GPU7"', 1), "not among its devices"),
        (with_override("experts", "GPU7"), "puts weights on GPU7, which its placement does not use"),
        (with_override("(exps", "host"), "'\\(exps' is no regular expression"),
        (with_override("(?i)exps", "host"), "inline flags"),
    ],
)
def test_a_damaged_plan_is_refused(document: bytes, damage: object, message: str) -> None:
    assert callable(damage)
    with pytest.raises(BadPlan, match=message):
        from_json(damage(document), "plan.json")
