"""Wrong types are refused by one sentence, before anything is read."""

from collections.abc import Callable
from typing import Any

import pytest

import vram_llm as package
from tests.planner.saved import local, saved_plan

API: Any = package  # as an untyped program sees it
MACHINE = API.Machine(devices=(), host=API.Host(name="test", cores=1, total_bytes=1, available_bytes=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: API.plan("m.gguf", machine="x"), r"machine is of type str; give Machine, as from"),
        (lambda: API.plan(7, MACHINE), "model is of type int; give str"),
        (lambda: API.plan("m.gguf", MACHINE, {"n_ctx": 1}), "workload is of type dict; give Workload"),
        (lambda: API.plan("m.gguf", MACHINE, workload(n_ctx="8k")), "Workload.n_ctx is of type str"),
        (lambda: API.plan("m.gguf", MACHINE, workload(tensor_split=(1, 2))), "TensorSplit.parse"),
        (lambda: API.compare("m.gguf", "x", workload(), "rig"), "machine is of type str"),
        (lambda: API.analyze(b"m.gguf"), "model is of type bytes"),
        (
            lambda: API.check("plan.json", host_reserve_bytes=0),
            "plan is of type str; give Plan, as from",
        ),
        (lambda: API.serve("m.gguf"), "plan is of type str"),
        (lambda: API.verify({}), "plan is of type dict"),
    ],
)
def test_wrong_types(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def workload(**fields: Any) -> Any:
    return API.Workload(**fields)


def test_right_types_of_every_field() -> None:
    from vram_llm.workflows.argument_types import check_field_types, check_type

    check_field_types(workload(expect_depth=1, n_ctx=8, loras=(API.Lora("a.gguf"),)))
    check_field_types(API.Serving(itl_target_ms=50))
    check_type("plan", saved_plan([local(0)], [4]), API.Plan)
