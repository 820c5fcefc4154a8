"""The file that is loaded is the file that was planned, at each load; changes while it is served show."""

import asyncio
import dataclasses
import errno
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import gguf
import httpx
import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import engine_processes, make_request, starting
from tests.patience import soon, until
from tests.server.live import http_client, listening
from tools.random_model import write_llama
from vram_llm.engine import file_watch
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.errors import BadPlan, ModelChanged, ModelRefused
from vram_llm.llama.model import LoadedModel
from vram_llm.model.file_identity import FileIdentity, change_of, now, touch_of
from vram_llm.planner.export.formats import from_json, to_json
from vram_llm.planner.types import Plan, Serving


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "served.gguf")


@pytest.fixture
def file(model: Path, plan_on_cpu: PlanOnCpu) -> FileIdentity:
    (file,) = plan_on_cpu(model).files
    return file


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A model with another header."""
    return write_llama(tmp_path / "other.gguf", n_ff=(128,) * 3)


def written_again(path: Path) -> None:
    """The same bytes in a file of their own."""
    copy = shutil.copy(path, path.with_suffix(".copy"))
    os.replace(copy, path)


def test_a_plan_has_its_files_also_as_json(model: Path, plan_on_cpu: PlanOnCpu, file: FileIdentity) -> None:
    facts = model.stat()
    assert (file.path, file.n_bytes, file.inode) == (str(model), facts.st_size, facts.st_ino)
    plan = plan_on_cpu(model)
    assert from_json(to_json(plan), "saved").files == (file,)


def test_a_copy_is_the_planned_file(model: Path, file: FileIdentity) -> None:
    written_again(model)
    assert change_of(file) is None
    assert "was replaced" in str(touch_of(file))
    assert touch_of(now(file)) is None


def test_a_change_is_named(model: Path, file: FileIdentity, other: Path) -> None:
    with model.open("r+b") as stream:
        stream.seek(file.header_bytes - 40)
        stream.write(b"\xff")
    assert f"{model} has changed since the plan was made: its header is another one" == change_of(file)
    assert "was written to" in str(touch_of(file))
    os.truncate(model, file.n_bytes - 1)
    assert f"the plan is for {file.n_bytes:,}" in str(change_of(file))
    assert "was cut from" in str(touch_of(file))
    os.replace(other, model)
    assert "was replaced" in str(touch_of(file))
    model.unlink()
    assert f"{model} cannot be read any more: No such file" in str(change_of(file))
    assert "is gone" in str(touch_of(file))
    os.mkfifo(model)
    assert "it is not a regular file" in str(change_of(file))


def test_no_load_takes_another_file(model: Path, other: Path, plan_on_cpu: PlanOnCpu) -> None:
    plan = plan_on_cpu(model)
    os.replace(other, model)
    with pytest.raises(BadPlan, match=r"served\.gguf has changed since the plan was made.*; plan again"):
        LoadedModel(plan)


def test_weights_that_are_no_numbers_are_refused_if_they_are_looked_at(
    tmp_path: Path, plan_on_cpu: PlanOnCpu
) -> None:
    path = write_llama(tmp_path / "nan.gguf", quant=gguf.GGMLQuantizationType.F32)
    (tensor, *_) = gguf.GGUFReader(path).tensors
    with path.open("r+b") as stream:
        stream.seek(int(tensor.data_offset))
        stream.write(np.array([np.nan], np.float32).tobytes())
    plan = plan_on_cpu(path)
    LoadedModel(plan).close()
    checked = dataclasses.replace(plan, serving=dataclasses.replace(plan.serving, check_tensors=True))
    with pytest.raises(ModelRefused, match="invalid data"):
        LoadedModel(checked)
    assert Serving().check_tensors is False


# -- while it is served -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "EVERY_S", 0.05)


@pytest.fixture
async def client(model: Path, plan_on_cpu: PlanOnCpu) -> AsyncIterator[EngineClient]:
    """It plans again if the file changes."""
    async with starting() as start:
        client = start(plan_on_cpu(model), replan=lambda *_: plan_on_cpu(model))
        await soon(client.ready())
        yield client


async def health(engine: EngineClient) -> httpx.Response:
    async with listening(engine) as url, http_client(url) as http:
        return await http.get("/health")


async def killed(engine: EngineClient) -> None:
    """Kill the engine, and wait until the supervisor has seen it."""
    (process,) = engine_processes()
    process.send_signal(signal.SIGKILL)
    await until(lambda: engine.state is not EngineState.READY, "the death")


@pytest.mark.process
async def test_health_and_log_tell_of_a_replaced_file(
    client: EngineClient, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await health(client)).json() == {"status": "ok"}
    with caplog.at_level(logging.WARNING):
        written_again(model)
        await until(lambda: bool(client.warnings), "a warning")
    told = f"{model} was replaced: the engine serves the file that it loaded until it is started again"
    assert (await health(client)).json() == {"status": "ok", "warnings": [told]}
    assert caplog.messages.count(told) == 1
    await killed(client)
    await soon(client.ready())
    assert client.warnings == ()


@pytest.mark.process
async def test_a_changed_file_is_planned_anew(client: EngineClient, model: Path, other: Path) -> None:
    assert client.plan.model.n_layers == 4
    (process,) = engine_processes()
    process.suspend()
    waiting = asyncio.create_task(anext(client.generate(make_request("of the old model"))))
    await until(lambda: len(client.in_flight) == 1, "the request in flight")
    os.replace(other, model)
    process.kill()
    with pytest.raises(ModelChanged, match="holds another model now"):
        await soon(waiting)
    await soon(client.ready())
    assert client.plan.model.n_layers == 3
    assert [event.finish_reason async for event in client.generate(make_request("a", max_tokens=3))][-1]


@pytest.mark.process
async def test_the_other_model_answers_requests_that_waited(
    client: EngineClient, model: Path, other: Path
) -> None:
    (process,) = engine_processes()
    process.suspend()
    async with listening(client) as url, http_client(url) as http:
        asked = [
            asyncio.create_task(http.post("/v1/completions", json={"prompt": "a", "max_tokens": 3} | more))
            for more in ({}, {"stream": True})
        ]
        await until(lambda: len(client.in_flight) == 2, "the requests in flight")
        os.replace(other, model)
        process.kill()
        assert [(await soon(answer)).status_code for answer in asked] == [200, 200]
    assert client.plan.model.n_layers == 3


@pytest.mark.process
async def test_a_plan_for_which_nothing_is_left_is_made_later(
    model: Path, other: Path, plan_on_cpu: PlanOnCpu
) -> None:
    errors = [OSError(errno.EMFILE, "Too many open files"), MemoryError()]

    def replan(*_: object) -> Plan:
        if errors:
            raise errors.pop()
        return plan_on_cpu(model)

    async with starting() as start:
        client = start(plan_on_cpu(model), replan=replan)
        await soon(client.ready())
        os.replace(other, model)
        await killed(client)
        await soon(client.ready())
        assert (errors, client.plan.model.n_layers) == ([], 3)


@pytest.mark.process
async def test_a_given_plan_waits_for_its_file(model: Path, other: Path, plan_on_cpu: PlanOnCpu) -> None:
    async with starting() as start:
        client = start(plan_on_cpu(model))
        await soon(client.ready())
        kept = model.rename(model.with_suffix(".kept"))
        shutil.copy(other, model)
        await killed(client)
        await until(lambda: "has changed since the plan was made" in client.detail, "a refusal by name")
        os.replace(kept, model)
        await soon(client.ready())
