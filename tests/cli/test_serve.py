"""The output of `serve`: four lines when it is ready, the progress of a load, the program on a taken port."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.running import run
from tests.conftest import PlanOnCpu
from tests.server.fake_engine import INFO
from tests.server.live import Serving, serving
from vram_llm.cli.load_progress import LoadLines
from vram_llm.cli.ready_lines import ready_lines
from vram_llm.machine.types import Host, Machine
from vram_llm.model.pooling import Pooling
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import Plan, Workload
from vram_llm.server.config import ServerConfig
from vram_llm.units import GIB
from vram_llm.workflows import detection

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory, host: Host) -> Plan:
    """A plan over two unequal cards and the host."""
    path = zoo.write(zoo.llama(), tmp_path_factory.mktemp("spread") / "model.gguf")
    machine = Machine(devices=detection.detect(("8GiB@500GB/s", "6GiB@300GB/s"), ()).devices, host=host)
    return make_plan(
        detection.analyze(str(path)),
        machine,
        Workload(n_ctx=4096, parallel=2, n_gpu_layers=25, tensor_split=TensorSplit((15, 10))),
    )


def test_the_last_four_lines_of_a_real_server() -> None:
    with serving("demo", "--api-key", "secret", "--strict-model") as served:
        served.await_health()
        assert served.end() == 0
        where, use, address, talk = served.said().splitlines()[-4:]
        assert where.startswith("demo: layers 0-4 and the output on the host, ")
        assert re.match(r"context of \S+ tokens for \d+ sequences together, KV cache f16; ", use)
        assert address == f"{served.url}/v1  key: as given  model: demo"
        assert f"vram-llm chat 127.0.0.1:{served.port} --api-key @FILE" in talk
        assert talk.endswith("; stop: Ctrl+C")
        assert "warning: `ps` shows everybody on this computer a key on the command line" in served.said()


def test_the_share_of_each_device(spread: Plan) -> None:
    where, use, *_ = ready_lines(spread, INFO, ServerConfig(), 8080)
    shares = where.partition(": ")[2].split("; ")
    assert len(shares) == 3
    assert re.fullmatch(r"layers 0-\d+ on the host, .* GiB", shares[0])
    assert re.fullmatch(r"layers? [\d-]+ on \w+ \(.*\), .* GiB", shares[1])
    assert re.fullmatch(r"layers? [\d-]+ and the output on \w+ \(.*\), .* GiB", shares[2])
    assert use.startswith("context of 4k tokens for 2 sequences together, KV cache f16; ")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (ServerConfig(), "http://127.0.0.1:8080/v1  key: any  model: any"),
        (ServerConfig(host="0.0.0.0"), "http://127.0.0.1:8080/v1  key: any  model: any"),
        (ServerConfig(host="::"), "http://[::1]:8080/v1  key: any  model: any"),
        (ServerConfig(host="gpu.lan, ::1"), "http://gpu.lan:8080/v1  key: any  model: any"),
        (ServerConfig(api_keys=("k",)), "http://127.0.0.1:8080/v1  key: as given  model: any"),
        (ServerConfig(aliases=("x",)), "http://127.0.0.1:8080/v1  key: any  model: any"),
        (
            ServerConfig(aliases=("x",), strict_model=True),
            f"http://127.0.0.1:8080/v1  key: any  model: {INFO.name}, x",
        ),
    ],
)
def test_the_address_is_true_to_the_options(plan_on_cpu: PlanOnCpu, config: ServerConfig, line: str) -> None:
    assert ready_lines(plan_on_cpu(), INFO, config, 8080)[2] == line


@pytest.mark.parametrize(
    ("pooling", "use", "route"),
    [
        (None, "context of 512 tokens for 4 sequences together", "/v1/chat/completions"),
        (Pooling.MEAN, "embeddings (mean) of texts of up to 512 tokens, 4 at a time", "/v1/embeddings"),
        (Pooling.RANK, "scores of texts of up to 512 tokens, 4 at a time", "/v1/rerank"),
    ],
)
def test_the_purpose_of_the_model(
    plan_on_cpu: PlanOnCpu, pooling: Pooling | None, use: str, route: str
) -> None:
    plan = plan_on_cpu()
    plan = replace(plan, context=replace(plan.context, pooling=pooling))
    _, of_context, _, talk = ready_lines(plan, INFO, ServerConfig(), 8080)
    assert of_context.startswith(use)
    assert f"curl http://127.0.0.1:8080{route} -d '" in talk
    assert ("vram-llm chat" in talk) == (pooling is None)


def test_a_line_each_ten_seconds_of_a_load() -> None:
    lines: list[str] = []
    now = 100.0
    progress = LoadLines(59 * GIB, lambda: now, lines.append)
    for seconds, fraction in ((0, 0.0), (5, 0.15), (10, 0.3), (15, 0.4), (20, 0.5), (29.9, 0.9), (30, 1.0)):
        now = 100 + seconds
        progress.show(fraction)
    assert lines == [
        "loading: 18 of 59 GiB, 1.9 GB/s, 23 s left",
        "loading: 30 of 59 GiB, 1.6 GB/s, 20 s left",
        "loading: 59 of 59 GiB, 2.1 GB/s, 0 s left",
    ]


def test_a_load_that_has_not_moved_has_no_rate() -> None:
    lines: list[str] = []
    now = 0.0
    progress = LoadLines(GIB, lambda: now, lines.append)
    progress.show(0.0)
    now = 12.0
    progress.show(0.0)
    assert lines == ["loading: 0 of 1.0 GiB"]


def test_a_port_that_vram_llm_has(demo_server: Serving) -> None:
    port = demo_server.port
    done = run("serve", "demo", "--port", str(port))
    assert done.returncode == 30
    found = re.search(
        rf"{port} is taken by vram-llm \(pid {demo_server.process.pid}, demo\); `--port (\d+)` is free",
        done.stderr,
    )
    assert found is not None, done.stderr
    assert int(found[1]) > port  # by now another test may have taken it


def test_the_port_is_looked_at_before_the_model(demo_server: Serving, tmp_path: Path) -> None:
    done = run("serve", "nowhere.gguf", "--port", str(demo_server.port), cwd=tmp_path)
    assert done.returncode == 30
