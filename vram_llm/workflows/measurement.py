"""Measure the speed of single devices and of a plan."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vram_llm.errors import BadPlan
from vram_llm.workflows.detection import analyze
from vram_llm.workflows.saved_plans import check_loadable

if TYPE_CHECKING:
    from vram_llm.machine.calibration_store import StoredCalibration
    from vram_llm.machine.types import Device, Host, Machine
    from vram_llm.planner.measured_speed import MeasuredSpeed
    from vram_llm.planner.types import Plan, SpeedEstimate


def calibrate(
    machine: "Machine",
    *,
    seconds: float | None = None,
    on_progress: "Callable[[str, float], None]" = lambda _name, _share: None,
) -> "Iterator[StoredCalibration]":
    """Measure llama.cpp on the host and on each device of `machine` in turn.

    Each takes `seconds`; None means some seconds. Every measurement is stored as soon as it is made, and
    `detect` then applies it to the same device. `on_progress` gets the key in the store and the share done.
    A device that cannot be recognised later (a card of `--gpu`) is skipped. Raises WorkerUnreachable,
    ModelRefused, EngineDied, NotBuilt.
    """
    from vram_llm.llama.measure.calibrate import calibrate as measure
    from vram_llm.machine import calibration_store

    host = machine.host
    for device in (None, *machine.devices):
        measured: Device | Host = device or host
        key = calibration_store.device_key(measured)
        if key is None:
            continue
        calibration = measure(device, host, functools.partial(on_progress, key), seconds)
        if device is None:
            host = dataclasses.replace(host, speed=calibration.speed)  # its best number of threads
        yield calibration_store.store(
            key,
            calibration_store.new_record(measured, calibration.speed, calibration.link, calibration.residual),
        )


def bench_model(
    plan: "Plan",
    *,
    n_prompt: int = 512,
    n_gen: int = 128,
    repeats: int = 5,
    on_progress: "Callable[[float], None]" = lambda _: None,
) -> "tuple[MeasuredSpeed, ...]":
    """Load `plan`, and measure prompt and decode speed, of one stream and of all, with the expected speeds.

    It runs llama.cpp without the engine: no server, no scheduler, no sampling. Raises BadPlan if the context
    is too small, ModelRefused, WorkerUnreachable, EngineDied, NotBuilt.
    """
    from vram_llm.llama.measure.throughput import rates, with_expected
    from vram_llm.llama.measure.throughput_wire import BenchTest
    from vram_llm.machine import calibration_store
    from vram_llm.machine.host import read_host
    from vram_llm.machine.types import Machine
    from vram_llm.planner.search.candidate import expected_speed
    from vram_llm.planner.types import Workload

    check_loadable(plan)
    if plan.context.pooling is not None:
        raise BadPlan(f"{plan.model.name} makes embeddings, and the bench measures text generation")
    streams = plan.context.parallel
    _check_room(plan, n_prompt, (n_gen + 2) * streams)
    tests = [BenchTest(prompt=n_prompt), BenchTest(decode=n_gen)]
    tests += [BenchTest(decode=n_gen, streams=streams)] if streams > 1 else []
    (measured,) = rates([plan], tests, repeats, on_progress)
    machine = calibration_store.with_measured_speeds(Machine(devices=plan.devices, host=read_host()))
    model = analyze(plan.model.path)

    def expected(depth: int) -> "SpeedEstimate | None":
        return expected_speed(model, machine, Workload(expect_depth=depth), plan)

    return with_expected(tests, measured, expected(n_prompt), expected(max(n_gen // 2, 1)))


def _check_room(plan: "Plan", *needed: int) -> None:
    if max(needed) > plan.context.n_ctx:
        raise BadPlan(
            f"the plan's context holds {plan.context.n_ctx:,} tokens and the tests need {max(needed):,}; "
            "plan with a larger --n-ctx, or measure fewer tokens or streams"
        )
