"""Compose files, read as YAML."""

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
    """The only service in the plan's compose file."""
    content = yaml.safe_load(compose_file(plan))
    assert list(content) == ["services"]
    (only_service,) = content["services"].values()
    assert isinstance(only_service, dict)
    return only_service


def mount(source: str, *, read_only: bool) -> dict[str, object]:
    """The mount of the model's folder in the container."""
    return {"type": "bind", "source": source, "target": "/models", "read_only": read_only}


def test_nvidia_cards_are_reserved_by_uuid() -> None:
    found = service(saved_plan([local(1), local(0)], [20, 60]))
    assert found["image"] == "ghcr.io/ggml-org/llama.cpp:server-cuda-v0.5.0"
    assert found["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "device_ids": ["GPU-1", "GPU-0"], "capabilities": ["gpu"]}
    ]
    assert found["environment"] == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-0", "LLAMA_API_KEY": None,
    }  # fmt: skip
    assert found["volumes"] == [mount("/srv/models", read_only=True)]
    assert found["ports"] == ["127.0.0.1:8080:8080"]
    command = found["command"]
    assert command[:2] == ["--model", "/models/big.gguf"]
    assert command[command.index("--tensor-split") + 1] == "20,61"
    assert all(isinstance(argument, str) for argument in command)


@pytest.mark.parametrize(
    ("kind", "tag", "device_files"),
    [
        (DeviceKind.ROCM, "server-rocm", ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"]),
        (DeviceKind.VULKAN, "server-vulkan", ["/dev/dri:/dev/dri"]),
        (DeviceKind.SYCL, "server-intel", ["/dev/dri:/dev/dri"]),
    ],
)
def test_other_cards_are_passed_as_device_files(kind: DeviceKind, tag: str, device_files: list[str]) -> None:
    found = service(saved_plan([absent(0, kind=kind)], [4]))
    assert found["image"].endswith(f":{tag}-v0.5.0")
    assert found["devices"] == device_files
    assert "deploy" not in found


def test_a_plan_without_cards_uses_the_cpu_image() -> None:
    found = service(saved_plan([], [], n_layers=4))
    assert found["image"].endswith(":server-v0.5.0")
    assert not {"deploy", "devices"} & found.keys()
    assert found["environment"] == {"LLAMA_API_KEY": None}  # as it is where Compose runs


@pytest.mark.parametrize(
    ("endpoint", "is_local"),
    [("127.0.0.1:50052", True), ("localhost:50052", True), ("10.0.0.1:50052", False)],
)
def test_a_worker_on_this_computer_needs_the_hosts_network(endpoint: str, is_local: bool) -> None:
    plan = saved_plan([remote(0, endpoint)], [4])
    found = service(plan)
    assert ("network_mode" in found, "ports" in found) == (is_local, not is_local)
    command = found["command"]
    assert command[command.index("--host") + 1] == ("127.0.0.1" if is_local else "0.0.0.0")
    assert command[command.index("--port") + 1] == "8080"
    assert "-DGGML_RPC=ON" in compose_file(plan)


def test_a_remote_model_is_downloaded_into_a_folder_of_the_host() -> None:
    found = service(saved_plan([local(0)], [4], path="hf:org/repo/x.gguf"))
    assert found["volumes"] == [mount("./models", read_only=False)]
    assert found["environment"]["LLAMA_CACHE"] == "/models"


def test_special_characters_of_yaml_and_compose_are_escaped() -> None:
    context = dataclasses.replace(CONTEXT, pipeline_copies=False)
    found = service(saved_plan([local(0), local(1)], [2, 2], path='/a: "b" $c/no.gguf', context=context))
    assert found["volumes"] == [mount('/a: "b" $$c', read_only=True)]
    assert "^$$=CPU" in found["command"]
    assert found["command"][1] == "/models/no.gguf"


@pytest.mark.parametrize(
    ("kinds", "message"),
    [([DeviceKind.METAL], "no published image"), ([DeviceKind.CUDA, DeviceKind.ROCM], "cuda and rocm")],
)
def test_cards_that_no_image_supports_are_refused(kinds: list[DeviceKind], message: str) -> None:
    cards = [absent(i, kind=kind) for i, kind in enumerate(kinds)]
    with pytest.raises(BadPlan, match=message):
        compose_file(saved_plan(cards, [2] * len(cards)))
