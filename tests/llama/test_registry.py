import sys
from pathlib import Path

import pytest

from vram_llm.llama import registry
from vram_llm.llama.registry import RegistryRequest, backends, gpu_libraries
from vram_llm.llama.registry_worker import list_devices
from vram_llm.machine.backend_devices import Backends


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_last", None)


def test_this_build_is_asked() -> None:
    assert backends().is_known


def test_the_registry_lists_its_back_ends() -> None:
    found = list_devices(RegistryRequest(), lambda _: None)
    assert "CPU" in found.built
    assert all(device.registry in found.built for device in found.devices)


def test_libraries_say_which_back_ends_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    for name in (
        "libggml-base.so",
        "libggml-cpu.so.0",
        "libggml-cpu-haswell.so",
        "libggml-rpc.so",
        "libllama.so",
    ):
        (tmp_path / name).touch()
    assert gpu_libraries() == frozenset()
    assert backends() == Backends()  # without asking
    for name in ("libggml-vulkan.so", "ggml-cuda.dll", "libggml-metal.dylib"):
        (tmp_path / name).touch()
    assert gpu_libraries() == {"vulkan", "cuda", "metal"}


@pytest.mark.process
def test_a_back_end_that_crashes_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\necho 'driver error: lost' >&2\nkill -ABRT $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(registry, "gpu_libraries", lambda: frozenset({"vulkan"}))
    monkeypatch.setattr(sys, "executable", str(crashing))
    found = backends()
    assert not found.is_known
    assert found.notes == (
        "Cards are planned for as their drivers describe them: llama.cpp ended while its back ends were "
        "asked for their devices: driver error: lost.",
    )
    assert backends() is found
