"""Warnings about computers: tables of facts and the warnings that they give."""

import re

import pytest

from vram_llm.machine.health_warnings import (
    HealthWarning,
    HostMemory,
    driver_warnings,
    folder_warnings,
    host_warnings,
    limit_warnings,
    package_warnings,
)
from vram_llm.machine.llama_build import LlamaBuild, build_warnings, parse_features
from vram_llm.machine.process_limits import ProcessLimits
from vram_llm.machine.software import OperatingSystem
from vram_llm.units import GIB, MIB

NO_LIMITS = dict.fromkeys(ProcessLimits.__dataclass_fields__)


def check(found: tuple[HealthWarning, ...], kinds: list[str], *, stops: bool = False) -> None:
    """The warnings are of these kinds; each is one sentence with a remedy."""
    assert [warning.kind for warning in found] == kinds
    assert any(warning.stops_serving for warning in found) is stops
    for warning in found:
        assert warning.text.endswith(".")
        assert re.search(r"[:,;.] ?(?:end|raise|run|set|build|install|start|restart|`pip)", warning.text)


@pytest.mark.parametrize(
    ("available_mib", "swapped_mib", "before_mib", "kinds"),
    [
        (32768, 0, None, []),
        (32768, 4096, None, []),  # swapped out long ago
        (32768, 4096, 4096, []),
        (32768, 4196, 4096, ["swapping"]),  # more than before
        (4096, 4096, None, ["swapping"]),  # short of memory
        (4096, 1, None, []),
        (400, 0, None, ["no_memory"]),
        (400, 4096, None, ["no_memory", "swapping"]),
    ],
)
def test_the_host(available_mib: int, swapped_mib: int, before_mib: int | None, kinds: list[str]) -> None:
    host = HostMemory(
        total_bytes=64 * GIB, available_bytes=available_mib * MIB, swap_used_bytes=swapped_mib * MIB
    )
    before = None if before_mib is None else before_mib * MIB
    check(host_warnings(host, before), kinds, stops="no_memory" in kinds)


@pytest.mark.parametrize(
    ("limits", "kinds", "stops"),
    [
        ({}, [], False),
        ({"open_files": 4096, "locked_bytes": 8 * MIB, "processes": 100}, [], False),
        ({"open_files": 256}, ["few_open_files"], False),
        ({"address_space_bytes": 64 * GIB}, ["address_space_limit"], False),
        ({"address_space_bytes": 2 * GIB}, ["address_space_limit"], True),
    ],
)
def test_limits(limits: dict[str, int], kinds: list[str], stops: bool) -> None:
    check(limit_warnings(ProcessLimits(**{**NO_LIMITS, **limits})), kinds, stops=stops)


@pytest.mark.parametrize(
    ("n_cards", "driver", "failure", "kinds"),
    [
        (0, None, None, []),
        (2, "580.65.06", None, []),
        (1, None, None, ["no_driver"]),
        (1, None, "The NVIDIA driver does not answer: versions differ.", ["driver_fails"]),
    ],
)
@pytest.mark.parametrize("is_container", [True, False])
def test_the_driver(
    n_cards: int, driver: str | None, failure: str | None, kinds: list[str], is_container: bool
) -> None:
    system = OperatingSystem(
        name="Linux", python="CPython", libc=None, is_container=is_container, is_wsl=False
    )
    found = driver_warnings(n_cards, driver, failure, system)
    check(found, kinds)
    if kinds == ["no_driver"]:
        assert ("--gpus all" in found[0].text) is is_container


def test_packages_and_folders() -> None:
    check(package_warnings({"httpx": "1"}), [])
    check(package_warnings({"httpx": "1", "rich": None}), ["missing_packages"], stops=True)
    check(folder_warnings(is_writable=True), [])
    check(folder_warnings(is_writable=False), ["data_folder"])


def test_features_of_a_build() -> None:
    line = "CPU : SSE3 = 1 | AVX2 = 1 | REPACK = 1 | CUDA : ARCHS = 860,890 | USE_GRAPHS = 1 | "
    assert parse_features(line) == {
        "CPU": {"SSE3": "1", "AVX2": "1", "REPACK": "1"},
        "CUDA": {"ARCHS": "860,890", "USE_GRAPHS": "1"},
    }
    assert parse_features("") == {}


@pytest.mark.parametrize(
    ("features", "instructions", "kinds"),
    [
        ("CPU : AVX = 1 | AVX2 = 1 | ", ("avx", "avx2"), []),
        ("CPU : AVX = 1 | AVX2 = 1 | ", ("avx", "avx2", "amx"), []),  # not built on purpose
        ("CPU : AVX = 1 | ", ("avx", "avx2", "avx512"), ["unused_instructions"]),
        ("CPU : AVX = 1 | AVX512 = 1 | ", ("avx",), ["foreign_instructions"]),
        ("CPU : AVX = 1 | AVX512 = 1 | ", None, []),
        ("", ("avx",), []),
    ],
)
def test_instructions(features: str, instructions: tuple[str, ...] | None, kinds: list[str]) -> None:
    build = LlamaBuild(loads=True, features=parse_features(features))
    check(build_warnings(build, instructions), kinds, stops="foreign_instructions" in kinds)
