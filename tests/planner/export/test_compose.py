import dataclasses
from typing import Any

import pytest
import yaml

from tests.planner.saved import CONTEXT, absent, local, remote, saved_plan
from vram_llm.errors import BadPlan
from vram_llm.machine.types import DeviceKind
from vram_llm.planner.export.compose import compose_file
from vram_llm.planner.types import Plan


def service(plan: Plan) -> dict[str, Any]:
    """The file's one service."""
    found = yaml.safe_load(compose_file(plan))
    assert list(found) == ["services"]
    (only,) = found["services"].values()
    assert isinstance(only, dict)
    return only


def mount(source: str, *, read_only: bool) -> dict[str, object]:
    """The model's folder as the container sees it."""
    return {"type": "bind", "source": source, "target": "/models", "read_only": read_only}


def test_two_cards_by_uuid() -> None:
    found = service(saved_plan([local(1), local(0)], [20, 60]))
    assert found["image"] == "ghcr.io/ggml-org/llama.cpp:server-cuda-v0.5.0"
    assert found["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "device_ids": ["GPU-1", "GPU-0"], "capabilities": ["gpu"]}
    ]
    assert found["environment"] == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-0"}
    assert found["volumes"] == [mount("/srv/models", read_only=True)]
    assert found["ports"] == ["127.0.0.1:8080:8080"]
    command = found["command"]
    assert command[:2] == ["--model", "/models/big.gguf"]
    assert command[command.index("--tensor-split") + 1] == "20,61"
    assert all(isinstance(word, str) for word in command)


@pytest.mark.parametrize(
    ("kind", "tag", "nodes"),
    [
        (DeviceKind.ROCM, "server-rocm", ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"]),
        (DeviceKind.VULKAN, "server-vulkan", ["/dev/dri:/dev/dri"]),
        (DeviceKind.SYCL, "server-intel", ["/dev/dri:/dev/dri"]),
    ],
)
def test_other_cards_are_device_files(kind: DeviceKind, tag: str, nodes: list[str]) -> None:
    found = service(saved_plan([absent(0, kind=kind)], [4]))
    assert found["image"].endswith(f":{tag}-v0.5.0")
    assert found["devices"] == nodes
    assert "deploy" not in found


def test_the_host_alone() -> None:
    found = service(saved_plan([], [], n_layers=4))
    assert found["image"].endswith(":server-v0.5.0")
    assert not {"deploy", "devices", "environment"} & found.keys()


@pytest.mark.parametrize(
    ("endpoint", "near"),
    [("127.0.0.1:50052", True), ("localhost:50052", True), ("10.0.0.1:50052", False)],
)
def test_workers(endpoint: str, near: bool) -> None:
    plan = saved_plan([remote(0, endpoint)], [4])
    found = service(plan)
    assert ("network_mode" in found, "ports" in found) == (near, not near)
    command = found["command"]
    assert command[command.index("--host") + 1] == ("127.0.0.1" if near else "0.0.0.0")
    assert command[command.index("--port") + 1] == "8080"
    assert "-DGGML_RPC=ON" in compose_file(plan)


def test_a_model_elsewhere_is_kept_in_a_folder() -> None:
    found = service(saved_plan([local(0)], [4], path="hf:org/repo/x.gguf"))
    assert found["volumes"] == [mount("./models", read_only=False)]
    assert found["environment"]["LLAMA_CACHE"] == "/models"


def test_words_that_yaml_or_compose_would_read_otherwise() -> None:
    context = dataclasses.replace(CONTEXT, pipeline_copies=False)
    found = service(saved_plan([local(0), local(1)], [2, 2], path='/a: "b" $c/no.gguf', context=context))
    assert found["volumes"] == [mount('/a: "b" $$c', read_only=True)]
    assert "^$$=CPU" in found["command"]
    assert found["command"][1] == "/models/no.gguf"


@pytest.mark.parametrize(
    ("kinds", "said"),
    [([DeviceKind.METAL], "no published image"), ([DeviceKind.CUDA, DeviceKind.ROCM], "cuda and rocm")],
)
def test_what_no_image_drives(kinds: list[DeviceKind], said: str) -> None:
    cards = [absent(i, kind=kind) for i, kind in enumerate(kinds)]
    with pytest.raises(BadPlan, match=said):
        compose_file(saved_plan(cards, [2] * len(cards)))
