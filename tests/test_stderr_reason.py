"""The reason given for a process that llama.cpp has ended."""

import io

import pytest

from vram_llm.stderr_reason import environment, last_words, reason

ASSERTION = "/tmp/build/vendor/llama.cpp/ggml/src/ggml-backend.cpp:2527: GGML_ASSERT(ptr % 32 == 0) failed"
SHORT = "ggml-backend.cpp:2527: GGML_ASSERT(ptr % 32 == 0) failed"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([ASSERTION], SHORT),
        ([ASSERTION, "#1 0x00007f in abort ()", "error: no debugger", "[Inferior 1 detached]"], SHORT),
        (["warming up", "CUDA error: out of memory", "bye"], "CUDA error: out of memory"),
        (["load failed: x", "ggml_abort"], "ggml_abort"),
        (["all is well"], None),
        ([], None),
    ],
)
def test_reason(lines: list[str], found: str | None) -> None:
    assert reason(lines) == found


def test_last_words() -> None:
    assert last_words(io.BytesIO(ASSERTION.encode() + b"\nmore\n")) == SHORT
    assert last_words(io.BytesIO(b"first\nlast\n")) == "last"
    assert last_words(io.BytesIO()) == "it gave no reason"


def test_no_debugger_is_started() -> None:
    assert environment()["GGML_NO_BACKTRACE"] == "1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.trim_threshold=1", "glibc.malloc.trim_threshold=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_large_pages_are_asked_for(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    assert environment()["GLIBC_TUNABLES"] == expected
