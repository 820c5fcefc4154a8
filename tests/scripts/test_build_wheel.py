from pathlib import Path

import pytest

from scripts.build_wheel import cached_wheel, explain, where


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  [57/197] /usr/bin/g++ -DGGML_BUILD -o x.o", "step 57 of 197"),
        ("[ 12%] Building CXX object a.o", "12 %"),
        ("[100%] Built target llama", "100 %"),
        ("  *** Configuring CMake...", "configuring"),
        ("  Downloading llama_cpp_python-0.3.36.tar.gz (76.6 MB)", "fetching the source"),
        ("  -- Configuring done", None),
        ("  note: see [3/4] in the manual", None),
    ],
)
def test_progress_lines(line: str, expected: str | None) -> None:
    assert where(line) == expected


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("g++: fatal error: Killed signal terminated program cc1plus", "ran out of memory"),
        ("cannot write a.o: No space left on device", "the disk is full"),
        ("No CMAKE_CXX_COMPILER could be found.", "no working C++ compiler"),
        ("NewConnectionError: Failed to establish a new connection: [Errno 101]", "cannot be reached"),
        ("ERROR: No matching distribution found for rich==15.0.0", "pip finds no rich==15.0.0"),
        ("ok\n  a.cpp:3:1: error: expected ';'\nninja: build stopped", "a.cpp:3:1: error: expected ';'"),
        ("", "it ended without saying why"),
    ],
)
def test_failures_are_explained_in_a_sentence(log: str, sentence: str) -> None:
    assert sentence in explain(log)


def test_a_lost_network_is_not_taken_for_a_missing_package() -> None:
    log = "WARNING: Retrying ... NameResolutionError\nERROR: No matching distribution found for click==8.5.1"
    assert "cannot be reached" in explain(log)


def test_a_wheel_is_found_under_its_key_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wheel = tmp_path / "vram-llm" / "wheels" / "abc" / "llama.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    assert cached_wheel("abc") == wheel
    assert cached_wheel("abd") is None
