"""`vram-llm doctor`: a computer with faults, a real one, and what a report may not tell."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.cli.running import environment, run
from tests.machine.fake_nvml import FakeCard, fake_nvml
from vram_llm.cli.doctor import report
from vram_llm.errors import NotBuilt
from vram_llm.llama import registry
from vram_llm.llama.registry import RegistryListing
from vram_llm.machine.backend_devices import Backends
from vram_llm.text.lines import plain
from vram_llm.workflows.diagnosis import diagnose

CARDS = (
    FakeCard(name="NVIDIA GeForce RTX 3090", link=(4, 16)),
    FakeCard(uuid="GPU-2", bus_id="00000000:02:00.0", slot=(3, 4), link=(1, 4), processes={os.getpid(): 900}),
)
CUDA_BUILD = RegistryListing(
    built=("CUDA", "CPU"),
    devices=(),
    features="CUDA : ARCHS = 860 | CPU : AVX2 = 1 | ",
    libraries=("libcudart.so.12.8.90", "libnccl.so.2.27.5"),
)


def test_a_computer_with_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(*CARDS))
    monkeypatch.setattr(registry, "list_build", lambda: CUDA_BUILD)
    found = diagnose(environ={"CUDA_VISIBLE_DEVICES": "0,1", "HF_TOKEN": "hf_abcdef"})
    assert (found.nvidia_driver, found.cuda, found.llama_cpp.uses_nccl) == ("580.65.06", "13.0", True)
    assert found.settings == ("CUDA_VISIBLE_DEVICES",)
    text = plain(report(found, 80))
    assert "NVIDIA 580.65.06, up to CUDA 13.0; llama.cpp uses NCCL" in text
    assert re.search("^GPU0 +RTX 3090, 23.4 GiB of 24.0 GiB free, cuda", text, re.MULTILINE)
    assert "PCIe 1@4x of 3@4x" in text
    of_cards = [(each.kind, each.device) for each in found.warnings if each.device]
    assert ("narrow_slot", "GPU1") in of_cards
    held = next(
        each.text for each in found.warnings if each.kind == "other_programs" and each.device == "GPU1"
    )
    assert held.startswith(f"a program (pid {os.getpid()}) holds")


@pytest.mark.process
def test_a_card_that_the_build_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(*CARDS))
    monkeypatch.setattr(registry, "_last", Backends(built=("CPU",)))
    found = diagnose(environ={})
    unused = [warning.text for warning in found.warnings if warning.kind == "no_back_end"]
    assert [text.partition(" cannot be used")[0] for text in unused] == [
        "NVIDIA GeForce RTX 3090 (GPU0)",
        "NVIDIA GeForce RTX 3090 Ti (GPU1)",
    ]
    assert not set(unused) & set(found.notes)
    assert not found.stops_serving


def test_llama_cpp_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> RegistryListing:
        raise NotBuilt(f"llama-cpp-python does not load ({tmp_path}/lib/libllama.so: no such file)")

    monkeypatch.setattr(registry, "list_build", fail)
    found = diagnose(environ={"HOME": str(tmp_path)})
    fault = next(warning for warning in found.warnings if warning.kind == "no_llama_cpp")
    assert fault.text == "llama.cpp cannot be used: llama-cpp-python does not load (~: no such file)."
    assert found.stops_serving
    for width in (40, 60, 80, 200):
        text = plain(report(found, width))
        assert "stops serving: llama.cpp cannot be used" in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.process
def test_the_command_names_nobody(tmp_path: Path) -> None:
    home = tmp_path / "xenia"
    private = {"HOME": str(home), "USER": "xenia", "VRAM_LLM_API_KEY": "sk-verysecret"}
    done = run("doctor", "--json", env={**environment(), **private})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["llama_cpp"]["loads"]
    assert "CPU" in found["llama_cpp"]["back_ends"]
    assert "VRAM_LLM_API_KEY" in found["settings"]
    for name in ("xenia", str(tmp_path), "sk-verysecret"):
        assert name not in done.stdout
