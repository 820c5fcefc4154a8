"""Reports of crashes, and loads without extra buffer types after crashes in the processor's kernels."""

import logging
import signal
from pathlib import Path

import msgspec
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import answer, begun, exhaust
from tests.engine.harness import Start, engine_processes
from tests.patience import soon, until
from vram_llm.engine import crash_report
from vram_llm.engine.crash_report import CrashReport, make_report, write_report
from vram_llm.engine.model_info import EngineState
from vram_llm.errors import EngineDied
from vram_llm.llama import bindings
from vram_llm.llama.params import ModelParams
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.planner.types import Plan


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of reports, which is not there yet."""
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    return tmp_path / "crashes"


def report(plan: Plan, reason: str = "signal 6") -> CrashReport:
    return make_report(plan, -6, reason, served_s=1.5, extra_buffers=True, stderr=("ggml.c:1: no",))


def test_the_newest_reports_are_kept_and_only_their_owner_reads_them(
    folder: Path, plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash_report, "MAX_REPORTS", 2)
    plan = plan_on_cpu()
    paths = [write_report(report(plan, f"reason {i}")) for i in range(3)]
    assert sorted(folder.iterdir()) == paths[1:]
    assert paths[2].stat().st_mode & 0o777 == 0o600
    found = msgspec.json.decode(paths[2].read_bytes(), type=CrashReport)
    assert (found.signal, found.reason, found.plan) == ("SIGABRT", "reason 2", plan)


@pytest.mark.process
async def test_crashes_of_an_engine_are_reported_without_prompts(
    start: Start, plan_on_cpu: PlanOnCpu, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The third load is the first without extra buffer types."""
    caplog.set_level(logging.ERROR, "vram_llm.engine")
    engine = start(plan_on_cpu(n_ctx=32768))
    for _ in range(3):
        await soon(engine.ready())
        stream = await begun(engine, "r", prompt="a secret of the user")
        engine_processes()[0].send_signal(signal.SIGSEGV)
        with pytest.raises(EngineDied):
            await soon(exhaust(stream))
    assert len(await soon(answer(engine, "after"))) > 0
    paths = sorted(folder.iterdir())
    reports = [msgspec.json.decode(path.read_bytes(), type=CrashReport) for path in paths]
    assert [each.extra_buffers for each in reports] == [True, True, False]
    assert all(each.signal == "SIGSEGV" and each.served_s is not None for each in reports)
    assert reports[0].plan == engine.plan
    assert all("secret" not in path.read_text() for path in paths)
    assert all(str(path) in caplog.text for path in paths)
    assert caplog.text.count("no extra buffer types") == 1


@pytest.mark.process
async def test_a_report_that_cannot_be_written_delays_nothing(
    start: Start, plan_on_cpu: PlanOnCpu, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("no folder")
    engine = start(plan_on_cpu())
    await soon(engine.ready())
    engine_processes()[0].kill()
    await until(lambda: engine.state is not EngineState.READY, "seen to be dead")
    await soon(engine.ready())
    assert "no crash report could be written" in caplog.text


def test_extra_buffer_types_can_be_switched_off(
    plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bindings, "has_amx_kernels", lambda: False)
    plan = plan_on_cpu()
    for wanted in (True, False):
        params = ModelParams(plan.placement, plan.context, (), extra_buffers=wanted)
        assert params.struct.use_extra_bufts == wanted
