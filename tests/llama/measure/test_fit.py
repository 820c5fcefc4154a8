"""Figures found again from the times they make."""

import msgspec
import pytest

from vram_llm.llama.measure.calibrate_wire import (
    MORE_ROWS,
    PROMPT_ROWS,
    DeviceTimes,
    HostTimes,
    OperationTime,
    StepTime,
    TransferTime,
)
from vram_llm.llama.measure.fit import fit_speed
from vram_llm.machine.processor_speed import SPLIT_S
from vram_llm.machine.types import Source

SHAPES = [(2, 1e6), (16, 1e7), (4, 5e7), (2, 1e8)]  # layers, bytes; as many weights


def times(
    *, step: float, layer: float, read: float, row: float, rtt: float | None = None, link: float = 1e9
) -> DeviceTimes:
    """The time that a device with exactly these figures takes."""

    def made(n_layers: int, n_bytes: float, rows: int) -> StepTime:
        crossing = 0 if rtt is None else rows * 10_000 / link
        seconds = step + n_layers * layer + n_bytes / read + (rows - 1) * 2 * n_bytes / row + crossing
        return StepTime(n_layers, int(n_bytes), int(n_bytes), 10_000, rows, seconds)

    decode = [made(*shape, rows) for shape in SHAPES for rows in (1, 4, 8)]
    prompt_s = step + 2 * layer + 2 * 1e8 * 512 / (5 * row)
    prompt_s += 0 if rtt is None else 512 * 10_000 / link
    sent = (
        ()
        if rtt is None
        else tuple(TransferTime(n, rtt + n / link, rtt + n / (2 * link)) for n in (4, 2**20, 2**22))
    )
    return DeviceTimes(tuple(decode), StepTime(2, 10**8, 10**8, 10_000, 512, prompt_s), sent)


@pytest.mark.parametrize(
    ("step", "layer", "read", "row"),
    [(1e-3, 5e-5, 1e10, 1e11), (0, 1e-6, 2e12, 5e13), (5e-3, 0, 3e9, 2e10)],
)
def test_exact_times_give_their_figures_back(step: float, layer: float, read: float, row: float) -> None:
    found = fit_speed(times(step=step, layer=layer, read=read, row=row))
    speed = found.speed
    assert speed.read_bytes_per_s.value == pytest.approx(read, rel=1e-3)
    assert speed.step_overhead_s.value == pytest.approx(step, rel=1e-3, abs=1e-9)
    assert speed.layer_overhead_s.value == pytest.approx(layer, rel=1e-3, abs=1e-9)
    assert speed.row_flops_per_s is not None
    assert speed.row_flops_per_s.value == pytest.approx(row, rel=1e-3)
    assert speed.prompt_flops_per_s is not None
    assert speed.prompt_flops_per_s.value == pytest.approx(5 * row, rel=1e-3)
    assert found.residual < 1e-6
    assert found.link is None
    assert {speed.read_bytes_per_s.source, speed.row_flops_per_s.source} == {Source.MEASURED}


def test_what_crosses_the_link_is_no_part_of_the_device() -> None:
    found = fit_speed(times(step=5e-3, layer=5e-5, read=1e10, row=1e11, rtt=4e-3, link=1e8))
    assert found.link is not None
    assert found.link.latency_s.value == pytest.approx(2e-3, rel=1e-3)
    assert found.link.bytes_per_s.value == pytest.approx(1e8, rel=1e-3)
    assert found.link.send_bytes_per_s is not None
    assert found.link.send_bytes_per_s.value == pytest.approx(2e8, rel=1e-3)
    assert found.speed.read_bytes_per_s.value == pytest.approx(1e10, rel=1e-3)
    assert found.speed.step_overhead_s.value == pytest.approx(5e-3, rel=1e-3)


def test_a_term_below_zero_is_left_out() -> None:
    exact = times(step=1e-3, layer=5e-5, read=1e10, row=1e11)
    longer = tuple(
        StepTime(s.n_layers, s.params, s.read_bytes, 0, s.rows, s.seconds * (0.7 if s.n_layers > 4 else 1))
        for s in exact.decode
    )
    found = fit_speed(DeviceTimes(longer, exact.prompt, ()))
    terms = (found.speed.layer_overhead_s, found.speed.step_overhead_s, found.speed.read_bytes_per_s)
    assert all(fact.value >= 0 for fact in terms)
    assert found.residual > 0.01


def test_what_caches_hold_does_not_say_how_fast_weights_are_read() -> None:
    exact = times(step=2e-4, layer=0, read=1e10, row=1e11)
    cached = tuple(
        StepTime(s.n_layers, s.params, s.read_bytes, s.row_bytes, s.rows, s.seconds - s.read_bytes * 0.4e-10)
        if s.read_bytes < 2e7
        else s
        for s in exact.decode
    )
    found = fit_speed(DeviceTimes(cached, exact.prompt, exact.transfers))
    assert found.speed.read_bytes_per_s.value == pytest.approx(1e10, rel=0.02)


def test_rows_that_cost_nothing_are_finite() -> None:
    found = fit_speed(times(step=1e-3, layer=5e-5, read=1e10, row=float("inf")))
    assert found.speed.row_flops_per_s is not None
    assert 1e15 < found.speed.row_flops_per_s.value < float("inf")


def test_a_split_costs_what_a_moved_layer_takes_more_than_the_hosts_part() -> None:
    exact = times(step=1e-3, layer=5e-5, read=1e10, row=1e11)
    assert fit_speed(exact).speed.split_s is None
    at_home = next(step for step in exact.decode if (step.n_layers, step.rows) == (16, 1))
    moved = msgspec.structs.replace(at_home, seconds=at_home.seconds + 16 * 4e-4)
    found = fit_speed(msgspec.structs.replace(exact, moved=moved)).speed.split_s
    assert found is not None
    assert found.value == pytest.approx(4e-4 - SPLIT_S)
    sooner = msgspec.structs.replace(at_home, seconds=at_home.seconds / 2)
    found = fit_speed(msgspec.structs.replace(exact, moved=sooner)).speed.split_s
    assert found is not None
    assert found.value == 0


def test_each_type_has_its_rates_relative_to_the_type_of_the_models() -> None:
    read, row, prompt = ({"Q8_0": 2e10, "IQ2_XXS": 5e9}, {"Q8_0": 4e10, "IQ2_XXS": 2e10}, 6e10)
    matrices = []
    for name in read:
        for rows in (1, MORE_ROWS, PROMPT_ROWS):
            n_bytes, products = 10**8, rows * 10**8
            seconds = n_bytes / read[name] + (rows - 1) * 2 * 10**8 / row[name]
            if rows == PROMPT_ROWS:
                seconds = 2 * products / prompt
            matrices.append(OperationTime(name, rows, n_bytes, products, seconds))
    host = HostTimes(
        n_threads=6,
        matrices=tuple(matrices),
        experts=OperationTime("Q8_0", 1, 10**8, 10**8, 10**8 / 1.5e10),
        attention=OperationTime("F16", 1, 0, 10**8, 0.02),
    )
    exact = times(step=1e-3, layer=5e-5, read=1.6e10, row=1e11)  # models read at 0.8 of the single operations
    speed = fit_speed(msgspec.structs.replace(exact, host=host)).speed
    assert speed.threads == 6
    assert speed.expert_read_share is not None
    assert speed.expert_read_share.value == pytest.approx(0.75)
    assert speed.attention_flops_per_s is not None
    assert speed.attention_flops_per_s.value == pytest.approx(1e10)
    for each in speed.types:
        assert each.read_bytes_per_s.value == pytest.approx(0.8 * read[each.type], rel=1e-3)
        assert each.row_flops_per_s.value == pytest.approx(row[each.type])
        assert each.prompt_flops_per_s.value == pytest.approx(prompt)
