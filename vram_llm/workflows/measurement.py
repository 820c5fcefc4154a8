"""Measure the speed of single devices and of a plan."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.errors import BadPlan, EngineDied, ModelNotFound, ModelRefused
from vram_llm.workflows.saved_plans import check_loadable, profile_of

if TYPE_CHECKING:
    from vram_llm.machine.calibration_store import StoredCalibration
    from vram_llm.machine.disk_store import StoredDisk
    from vram_llm.machine.sum_store import StoredSum
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


def calibrate_sums(
    machine: "Machine",
    *,
    seconds: float | None = None,
    on_progress: "Callable[[str, float], None]" = lambda _name, _share: None,
) -> "Iterator[StoredSum]":
    """Measure the sums of tensor splits over devices of `machine`: over all, without the slowest, and so on.

    `machine` has the measured speeds of its devices. Each group takes `seconds`; None means some seconds.
    Measurements are stored, and plans by tensors use them. A group with a device that cannot be recognised
    later is skipped; one that llama.cpp cannot split over gives a note. Raises WorkerUnreachable, NotBuilt.
    """
    from vram_llm.llama.measure.all_reduce import sum_times
    from vram_llm.machine import sum_store
    from vram_llm.machine.assumed_speed import device_speed

    fastest = sorted(machine.devices, key=lambda device: -device_speed(device).read_bytes_per_s.value)
    for n in range(len(fastest), 1, -1):
        devices = [device for device in machine.devices if device in fastest[:n]]
        key = sum_store.sum_key(devices)
        if key is None:
            continue
        try:
            times = sum_times(
                devices, machine.host, functools.partial(on_progress, f"sums of {key}"), seconds
            )
        except (ModelRefused, EngineDied, BadPlan) as error:
            yield sum_store.StoredSum(key, None, (f"no tensor split over {key}, and no sums: {error}",))
            continue
        yield sum_store.store(key, sum_store.new_record(devices, times.latency_s, times.bytes_per_s))


def calibrate_disks(
    models: "Sequence[str]" = (),
    *,
    seconds: float | None = None,
    on_progress: "Callable[[str, float], None]" = lambda _name, _share: None,
) -> "Iterator[StoredDisk]":
    """Measure how fast each disk that holds models reads: those of `models`, and of every installed model.

    Of the models on a disk the largest is read, for `seconds`; None means some seconds. Measurements are
    stored, and plans that read from the disk use them. A disk is skipped if its models are small, or in use
    by another program. Raises ModelNotFound.
    """
    from vram_llm.llama.measure.disk_speed import disk_bytes_per_s
    from vram_llm.machine import disk_store
    from vram_llm.model import library
    from vram_llm.workflows.model_names import resolve

    files = [path for path in map(resolve, models) if isinstance(path, Path)]
    if absent := [path for path in files if not path.is_file()]:
        raise ModelNotFound(f"there is no file {absent[0]}")
    files += (model.path for model in library.everything())
    files.sort(key=lambda file: file.stat().st_size)
    largest = {disk_store.disk_key(file): file for file in files}
    for key, file in largest.items():
        if key is None:
            continue
        rate = disk_bytes_per_s(file, seconds, functools.partial(on_progress, f"disk {key}"))
        if rate is not None:
            yield disk_store.store(key, disk_store.new_record(rate, file))


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
    from vram_llm.machine import calibration_store, sum_store
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
    machine = sum_store.with_measured_sums(machine)
    model = profile_of(plan)

    def expected(depth: int) -> "SpeedEstimate | None":
        return expected_speed(model, machine, Workload(expect_depth=depth), plan)

    return with_expected(tests, measured, expected(n_prompt), expected(max(n_gen // 2, 1)))


def _check_room(plan: "Plan", *needed: int) -> None:
    if max(needed) > plan.context.n_ctx:
        raise BadPlan(
            f"the plan's context holds {plan.context.n_ctx:,} tokens and the tests need {max(needed):,}; "
            "plan with a larger --n-ctx, or measure fewer tokens or streams"
        )
