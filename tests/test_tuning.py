"""A real run of `tune` over two RPC workers, and what `plan` makes of its result."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.cli.running import command, environment, run_here
from tests.patience import PATIENCE_S
from tests.workers import running_workers
from tools.random_model import write_llama
from vram_llm.errors import BadPlan, EngineDied, NotBuilt, TuneRunning, WorkerUnreachable
from vram_llm.llama.measure import measure_plan as measuring
from vram_llm.llama.measure.measure_plan_wire import PlanMeasurement, PlanMeasurementRequest
from vram_llm.machine import calibration_store
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.machine.types import Fact, Link, Machine, Source, Speed
from vram_llm.planner.tensor_split import SplitChoice
from vram_llm.planner.tuning.choice import choice_of
from vram_llm.planner.types import Plan, Workload
from vram_llm.units import MIB
from vram_llm.workflows import detection, planning
from vram_llm.workflows.tuning import llama_server, store
from vram_llm.workflows.tuning.one_at_a_time import one_at_a_time
from vram_llm.workflows.tuning.results import TuneProgress, TuneResult
from vram_llm.workflows.tuning.run import tune

PlanHere = Callable[[str, Machine, Workload], Plan]

pytestmark = pytest.mark.process

WISH = Workload(n_ctx=256, parallel=1, reserve_bytes=0, expect_depth=16, n_gpu_layers=-1, n_ubatch=64)
MINUTES = 0.2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_llama(tmp_path_factory.mktemp("tuned") / "tiny.gguf", n_ff=(96,) * 4))


@pytest.fixture(scope="module")
def rig() -> Iterator[Machine]:
    """Two workers with links as fast as they are on an idle machine, whatever was measured just now."""
    with running_workers(2) as endpoints:
        machine = detection.detect(rpc=[f"{endpoint}@64MiB" for endpoint in endpoints])
        fast = Link(latency_s=Fact(1e-5, Source.MEASURED), bytes_per_s=Fact(5e9, Source.MEASURED))
        speed = Speed(
            read_bytes_per_s=Fact(20e9, Source.ASSUMED),
            layer_overhead_s=Fact(2e-4, Source.ASSUMED),
            step_overhead_s=Fact(1e-4, Source.ASSUMED),
            row_flops_per_s=None,
            prompt_flops_per_s=None,
        )
        devices = tuple(replace(device, link=fast, speed=speed) for device in machine.devices)
        yield replace(machine, devices=devices)


@pytest.fixture(scope="module")
def plan() -> Iterator[PlanHere]:
    """`planning.plan`, with one dry run for all tests."""
    with planning.dry_run() as dry:
        yield lambda model, machine, workload: planning.plan(model, machine, workload, dry, compares=False)


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    return tmp_path


class ScriptedMeasurements:
    """In place of the child process: times by split, so that tests of what follows depend on no clock.

    `test_a_real_run` runs the child itself.
    """

    def __init__(
        self,
        fastest: str | None = None,
        *,
        crashing: str = "",
        interrupted_after: int = 1000,
        unreachable_after: int = 1000,
    ) -> None:
        self.fastest, self.crashing, self.left = fastest, crashing, interrupted_after
        self.unreachable_after = unreachable_after
        self.seen: list[str] = []

    def __call__(self, request: PlanMeasurementRequest, on_progress: object = None) -> PlanMeasurement:
        name = split(request.plan)
        self.seen.append(name)
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        if len(self.seen) > self.unreachable_after:
            raise WorkerUnreachable("worker 127.0.0.1:50052: nobody listens")
        if name == self.crashing:
            raise EngineDied("llama.cpp ended while tiny was measured: out of memory")
        self.fastest = self.fastest or next((each for each in self.seen if each != self.seen[0]), None)
        step_s = 0.010 if name == self.fastest else 0.012
        return PlanMeasurement(0.01, 0.0, request.prompt_tokens, (0.001,), (step_s, step_s, step_s))


def split(plan: Plan) -> str:
    return f"{plan.placement.device_order} {plan.placement.layers_per_device} {plan.context.n_ubatch}"


def scripted(monkeypatch: pytest.MonkeyPatch, **how: object) -> ScriptedMeasurements:
    measurements = ScriptedMeasurements(**how)  # type: ignore[arg-type]  # its own options
    monkeypatch.setattr(measuring, "measure_plan", measurements)
    return measurements


def tuned(model: str, rig: Machine, **more: object) -> TuneResult:
    return tune(model, rig, WISH, minutes=MINUTES, **more)  # type: ignore[arg-type]  # options of tune


def test_a_real_run(model: str, rig: Machine, own_store: Path, plan: PlanHere) -> None:
    seen: list[TuneProgress] = []
    result = tune(model, rig, WISH, minutes=0.1, on_progress=seen.append)
    measured = [row for row in result.rows if row.tokens_per_s]
    assert len(measured) >= 2
    assert [row.is_predictions_choice for row in result.rows].count(True) == 1
    assert result.n_pairs >= 2
    assert result.winner in [row.name for row in measured]
    assert {each.phase.partition(":")[0] for each in seen} >= {"planning", "loading", "pairs"}
    (record,) = store.read()[0].values()
    assert record.choice is not None
    assert {row.name for row in record.rows} >= {row.name for row in measured}
    assert plan(model, rig, WISH).notes[0].startswith("tuned on ")


def test_the_winner_is_used(
    model: str, rig: Machine, own_store: Path, plan: PlanHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurements = scripted(monkeypatch)
    before = plan(model, rig, WISH)
    result = tuned(model, rig)
    assert result.gain == pytest.approx(0.2, abs=0.02)
    assert result.tokens_per_s == pytest.approx(100)
    after = plan(model, rig, WISH)
    assert split(after) == measurements.fastest != split(before)
    assert after.notes[0] == result.kept
    assert "100 tok/s, 20% over the prediction's choice" in after.notes[0]
    assert split(plan(model, rig, replace(WISH, use_tuned=False))) == split(before)
    assert not any("tuned" in note for note in plan(model, rig, replace(WISH, parallel=2)).notes)


def test_the_kept_plan_is_left_out_with_a_remark(
    model: str, rig: Machine, own_store: Path, plan: PlanHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch)
    tuned(model, rig)

    def remark(machine: Machine) -> str:
        return next(note for note in plan(model, machine, WISH).notes if "tuned on" in note)

    alone = replace(rig, devices=rig.devices[:1])
    assert "RPC1 of that time is not among the devices; tune again" in remark(alone)
    other = replace(rig.devices[0], total_bytes=rig.devices[0].total_bytes + MIB)
    assert "RPC0 has another size of memory" in remark(replace(rig, devices=(other, rig.devices[1])))
    order = rig.devices[::-1]
    assert remark(replace(rig, devices=order)).startswith("tuned on")
    fuller = [replace(device, free_bytes=device.free_bytes // 200) for device in rig.devices]
    full = replace(rig, devices=(rig.devices[0], *fuller[1:]))
    assert "is not used" in remark(full) or remark(full).startswith("tuned on")
    write_llama(Path(model), n_ff=(96,) * 4, n_vocab=384)
    try:
        assert "has changed since; tune again" in remark(rig)
    finally:
        write_llama(Path(model), n_ff=(96,) * 4)


def test_a_crash_is_a_row(model: str, rig: Machine, own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = scripted(monkeypatch)
    tuned(model, rig)
    crashing = next(name for name in names.seen if name not in (names.seen[0], names.fastest))
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(own_store / "second"))
    scripted(monkeypatch, fastest=names.fastest, crashing=crashing)
    result = tuned(model, rig)
    (failed,) = [row for row in result.rows if row.failed]
    assert "out of memory" in (failed.failed or "")
    assert result.rows[-1] == failed
    assert result.gain is not None


def test_an_interrupt_keeps_what_was_learned(
    model: str, rig: Machine, own_store: Path, plan: PlanHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, interrupted_after=4)
    result = tuned(model, rig)
    assert result.is_interrupted
    assert result.winner is None
    (record,) = store.read()[0].values()
    assert len(record.rows) >= 2
    assert record.choice is None
    assert not any("tuned" in note for note in plan(model, rig, WISH).notes)


def test_a_second_run_starts_from_the_first(
    model: str, rig: Machine, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scripted(monkeypatch)
    tuned(model, rig)
    second = scripted(monkeypatch, fastest=first.fastest)
    result = tuned(model, rig)
    others = [name for name in second.seen if name != second.seen[0]]
    assert others[0] == first.fastest
    assert result.gain == pytest.approx(0.2, abs=0.02)
    assert len(store.read()[0]) == 1


def test_speeds_are_learned(
    model: str, rig: Machine, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch)
    result = tuned(model, rig)
    records = calibration_store.read()[0]
    assert records
    assert all(record.tuned_with == result.model for record in records.values())
    assert any("learned for later plans" in note for note in result.notes)


def test_a_worker_that_ends_ends_the_run(
    model: str, rig: Machine, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, unreachable_after=3)
    with pytest.raises(WorkerUnreachable, match=r"nobody listens; the measurements are kept, and the next"):
        tuned(model, rig)
    (record,) = store.read()[0].values()
    assert record.rows
    assert record.choice is None


def test_a_second_run_at_the_same_time_is_refused(model: str, rig: Machine, own_store: Path) -> None:
    with one_at_a_time(), pytest.raises(TuneRunning, match=rf"\(process {os.getpid()}\) is measuring"):
        tuned(model, rig)
    with one_at_a_time():
        pass


def test_a_folder_that_cannot_be_written_has_no_lock(
    own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_store / "file").touch()
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(own_store / "file"))
    with one_at_a_time(), one_at_a_time():
        pass


def test_a_tensor_split_that_is_kept_is_used(rig: Machine, own_store: Path, plan: PlanHere) -> None:
    model = str(write_llama(own_store / "wide.gguf", n_embd=256, n_ff=(512,) * 4, n_head=4, n_head_kv=2))
    by_tensors = plan(model, rig, replace(WISH, split_mode=SplitChoice.TENSOR))
    files, context = planning.PlannedFiles.read(model, WISH), by_tensors.context
    record = store.new_record(files.identities, rig, WISH, context.n_ctx, by_tensors.model.name)
    choice = choice_of(by_tensors.placement, context)
    store.store(msgspec.structs.replace(record, choice=choice, tokens_per_s=50.0, gain=0.3, margin=0.01))
    after = plan(model, rig, WISH)
    assert [note for note in after.notes if note.startswith("tuned on ")]
    assert (after.placement, after.context) == (by_tensors.placement, context)
    for mode in SplitChoice:
        found = plan(model, rig, replace(WISH, split_mode=mode))
        assert not [note for note in found.notes if "tuned" in note]


def test_refusals(model: str, rig: Machine, own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(own_store))
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_store))
    with pytest.raises(NotBuilt, match="no llama-server on PATH"):
        tuned(model, rig, compares_llama_server=True)
    with pytest.raises(BadPlan, match="not in this machine"):
        tune(model, detection.detect(["24GiB"]), Workload(n_ctx=256))


def test_llama_server_that_does_not_start_is_a_row(
    model: str, rig: Machine, own_store: Path, plan: PlanHere
) -> None:
    program = own_store / "llama-server"
    program.write_text("#!/bin/sh\necho error: no such device >&2\nexit 3\n")
    program.chmod(0o755)
    from vram_llm.planner.tuning.scores import RequestShape

    shape = RequestShape(objective=WISH.objective, streams=1, prompt_tokens=16)
    row = llama_server.measured_row(str(program), plan(model, rig, WISH), shape, 16, 16, 1.0)
    assert row.name == "llama-server --fit"
    assert "no such device" in (row.failed or "")


def test_the_command(model: str, own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the processor alone, where micro-batches are the only choice."""
    scripted(monkeypatch)
    small = ["--n-gpu-layers", "0", "--n-ctx", "256", "--parallel", "1", "--expect-depth", "16"]
    env = environment() | {DATA_DIR_VARIABLE: str(own_store)}
    done = run_here("tune", model, *small, "--minutes", "0.1", env=env)
    assert done.returncode == 0, done.stderr
    assert "Kept for plan and serve: micro-batches of 128, 100 tok/s, 20.0% over" in one_line(done.stdout)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "pairs: micro-batches of 128, 100 tok/s, prompts" in done.stderr
    assert "note: tuned on" in run_here("plan", model, *small, env=env).stdout
    assert "tuned on" not in run_here("plan", model, *small, "--no-tuned", env=env).stdout
    result = json.loads(run_here("tune", model, *small, "--minutes", "0.1", "--json", env=env).stdout)
    assert result["winner"] == "micro-batches of 128"


def test_nothing_to_choose(model: str, own_store: Path) -> None:
    options = ["--n-gpu-layers", "0", "--n-ctx", "256", "--n-ubatch", "64", "--threads", "1", "-fa", "on"]
    env = environment() | {DATA_DIR_VARIABLE: str(own_store)}
    done = run_here("tune", model, *options, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "There is nothing to choose: no other plan of tiny" in one_line(done.stdout)
    result = json.loads(run_here("tune", model, *options, "--json", env=env).stdout)
    assert (result["had_choice"], result["winner"], result["rows"]) == (False, None, [])


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_ctrl_c_ends_with_the_houses_code(model: str, own_store: Path) -> None:
    env = environment() | {DATA_DIR_VARIABLE: str(own_store)}
    words = command("tune", model, "--n-gpu-layers", "0", "--n-ctx", "256", "--minutes", "0.5")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    running = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with running:
        assert running.stderr is not None
        try:
            for shown in running.stderr:
                if shown.startswith("round 1"):
                    break
            os.kill(running.pid, signal.SIGINT)
            _, stderr = running.communicate(timeout=PATIENCE_S)
        finally:
            running.kill()
    assert running.returncode == 130, stderr
    assert "interrupted: the measurements are kept" in stderr
    assert (own_store / "tuned.json").exists()
