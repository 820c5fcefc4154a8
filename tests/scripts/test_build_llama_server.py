from dataclasses import replace
from pathlib import Path

import pytest

from scripts.build_args import Facts, plan_build
from scripts.build_llama_server import PROGRAMS, configure_command, is_complete, programs_folder

FACTS = Facts(system="Linux", arch="x86_64", cores=2, available_bytes=None, cpu_flags=frozenset({"avx2"}))


def test_ggml_is_built_as_for_the_bindings() -> None:
    build = plan_build(FACTS, {})
    command = configure_command("cmake", Path("/source"), Path("/output"), build)
    assert command[:5] == ["cmake", "-S", "/source", "-B", "/output"]
    assert command[-len(build.cmake_args) :] == list(build.cmake_args)
    assert "-DGGML_RPC=ON" in command
    assert "-DLLAMA_BUILD_UI=OFF" in command


@pytest.mark.process
def test_other_arguments_are_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build = plan_build(FACTS, {})
    folder = programs_folder(FACTS, build)
    assert folder.parent == tmp_path / "vram-llm" / "programs"
    assert folder == programs_folder(FACTS, replace(build, jobs=7))
    assert folder != programs_folder(FACTS, plan_build(FACTS, {"CMAKE_ARGS": "-DGGML_OPENMP=OFF"}))


def test_complete_is_every_program(tmp_path: Path) -> None:
    for name in PROGRAMS:
        assert not is_complete(tmp_path)
        (tmp_path / name).touch()
    assert is_complete(tmp_path)
