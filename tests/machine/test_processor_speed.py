import dataclasses

import pytest

from vram_llm.machine.assumed_speed import host_speed
from vram_llm.machine.processor_speed import estimated_speed
from vram_llm.machine.types import Fact, Host, Source, Speed, TypeSpeed
from vram_llm.model.quants import TYPES
from vram_llm.units import GIB


def host(cores: int, gb_s: float | None, memory_kind: str | None = None, **fields: object) -> Host:
    bandwidth = None if gb_s is None else Fact(gb_s * 1e9, Source.GIVEN)
    usual = Host(
        name="test", cores=cores, total_bytes=GIB, available_bytes=GIB, bandwidth_bytes_per_s=bandwidth,
        memory_kind=memory_kind,
    )  # fmt: skip
    return dataclasses.replace(usual, **fields)  # type: ignore[arg-type]  # fields by name


def of_type(speed: Speed, name: str) -> TypeSpeed:
    return next(type_speed for type_speed in speed.types if type_speed.type == name)


I9 = host(10, 102, "DDR4-3200 4ch")
XEON = host(16, 76.8, "DDR4-2400 4ch")
THREADRIPPER = host(24, 307, "DDR5-4800 8ch")
EPYC = host(32, 576, "DDR5-6000 12ch")
M2_MAX = host(12, 410, "LPDDR5-6400", cpu_name="Apple M2 Max")


@pytest.mark.parametrize(
    ("machine", "name", "gb_s"),
    [
        (I9, "Q4_K", 45),  # published rates: see the module
        (I9, "MXFP4", 32),
        (XEON, "IQ4_XS", 51),
        (THREADRIPPER, "Q8_0", 191),
        (EPYC, "Q6_K", 254),
        (M2_MAX, "F16", 118),
        (M2_MAX, "Q8_0", 112),
        (M2_MAX, "Q4_0", 104),
        (M2_MAX, "Q4_K", 77),
        (M2_MAX, "Q6_K", 72),
    ],
)
def test_read_rates_are_close_to_published_measurements(machine: Host, name: str, gb_s: float) -> None:
    speed = host_speed(machine)
    assert of_type(speed, name).read_bytes_per_s.value == pytest.approx(gb_s * 1e9, rel=0.15)
    assert of_type(speed, name).read_bytes_per_s.source is Source.ESTIMATED


def test_a_desktop_is_limited_by_its_two_channels() -> None:
    desktop = host(16, 89.6, "DDR5-5600 2ch")
    rates = [
        type_speed.read_bytes_per_s.value
        for type_speed in host_speed(desktop).types
        if "IQ" not in type_speed.type
    ]
    assert rates == pytest.approx([0.7 * 89.6e9] * len(rates))


def test_types_that_are_slow_to_unpack_are_limited_by_arithmetic() -> None:
    """IQ1_M and IQ2_M took the same time on one computer, although their sizes differ by a third."""
    speed = host_speed(host(12, 89.6, "DDR5-5600 2ch"))
    seconds = {
        name: bytes_per_weight / of_type(speed, name).read_bytes_per_s.value
        for name, bytes_per_weight in (("IQ1_M", 56 / 256), ("IQ2_S", 82 / 256))
    }
    assert seconds["IQ1_M"] == pytest.approx(seconds["IQ2_S"], rel=0.15)


def test_hyperthreads_do_not_count_as_cores() -> None:
    assert host_speed(host(20, 102, "DDR4-3200 4ch", physical_cores=10)) == host_speed(I9)


def test_all_ggml_types_of_common_models_have_a_speed() -> None:
    rare = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "TQ1_0", "TQ2_0", "NVFP4", "Q1_0", "Q2_0"}
    all_types = {ggml_type.name for ggml_type in TYPES.values()}
    assert {type_speed.type for type_speed in host_speed(EPYC).types} == all_types - rare


def test_the_sizes_of_types_are_those_of_ggml() -> None:
    speed = estimated_speed(host(1, 1000))
    assert speed is not None
    sizes = {ggml_type.name: ggml_type.block_bytes / ggml_type.block for ggml_type in TYPES.values()}
    for type_speed in speed.types:
        weights_per_s = type_speed.read_bytes_per_s.value / sizes[type_speed.type]
        arithmetic_s = 2 / type_speed.row_flops_per_s.value
        assert 1 / weights_per_s == pytest.approx(sizes[type_speed.type] / 7.5e9 + arithmetic_s)


def test_without_a_bandwidth_the_speed_is_assumed() -> None:
    assert estimated_speed(host(8, None)) is None
    assert host_speed(host(8, None)).read_bytes_per_s.source is Source.ASSUMED
