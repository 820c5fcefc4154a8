import json
import re
import shlex
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests import zoo
from tests.cli.running import run, run_here, without_alternatives
from tools.random_bert import write_bert
from tools.random_model import write_llama

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("plans_made_once")]

RIG = ["--gpu", "RTX 4080 Laptop", "--gpu", "2x RTX 3090 Ti"]


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("49b")
    return zoo.write(zoo.nemotron_49b(), folder / "49b.gguf", shard_bytes=40 * 10**9)


def test_the_49b_on_a_what_if_rig(nemotron: Path) -> None:
    done = run("plan", nemotron, *RIG, "--n-ctx", "2048", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["fits"] is True
    assert [device["total_bytes"] // 2**30 for device in plan["devices"]] == [12, 24, 24]
    assert plan["context"]["n_ctx"] == 2048
    for use in plan["estimate"]["devices"]:
        device = next(device for device in plan["devices"] if device["id"] == use["id"])
        assert use["total_bytes"] <= device["free_bytes"] - device["reserve_bytes"]


def test_the_table_fits_a_narrow_terminal(nemotron: Path) -> None:
    columns = 30  # tests/cli/golden has wider ones
    done = run_here("plan", nemotron, *RIG, "-v", "--explain", columns=columns)
    assert done.returncode == 0
    shown = [line for line in done.stdout.splitlines() if not line.startswith(("next: ", "--"))]
    assert max(map(len, shown)) <= columns
    assert re.search(r"^GPU2  RTX 3090", done.stdout, re.MULTILINE)
    assert "▇" in done.stdout


def test_the_expected_speed_has_its_basis(nemotron: Path) -> None:
    shown = run_here("plan", nemotron, *RIG, "--n-ctx", "2048", columns=100).stdout
    plan = json.loads(run_here("plan", nemotron, *RIG, "--n-ctx", "2048", "--json").stdout)
    speed = plan["speed"]
    assert plan["objective"] == "latency"
    assert shown.startswith(f"Fits on the cards. {speed['tokens_per_s']:.1f} tok/s for one (")
    likely = speed["tokens_per_s_range"]
    assert f"({likely['low']:.1f} to {likely['high']:.1f} in nine of ten)" in shown
    assert "one from the catalog; 4 together and prompts estimated" in shown
    assert sum(device["share"] for device in speed["devices"]) == pytest.approx(1)
    detail = run_here("plan", nemotron, *RIG, "--n-ctx", "2048", "--verbose", columns=100).stdout
    shares = [f"{device['share']:.0%}" for device in speed["devices"]]
    assert re.search(rf"time +{' +'.join(shares)} +-", detail)
    assert "llama.cpp itself, by free memory" in detail
    spread = next(other for other in plan["alternatives"] if other["name"] == "8k more context")
    assert 0 < spread["speed"]["tokens_per_s"] < speed["tokens_per_s"]
    assert plan["by_free_memory"]["speed"] is not None


def test_a_model_that_embeds(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "bert.gguf")
    shown = run_here("plan", path, "--gpu", "RTX 3090", columns=100).stdout
    assert "Embeddings (mean) of texts of up to 512 tokens, 64 at a time" in shown
    assert re.search(r"Reads [\d,]+ tok/s", shown)
    assert "together" not in shown  # nothing decodes
    ranker = write_bert(tmp_path / "rank.gguf", pooling=gguf.PoolingType.RANK)
    assert "Scores of texts of up to" in run_here("plan", ranker, columns=100).stdout
    flags = run_here("plan", path, "--pooling", "cls", "--emit", "llama-server").stdout
    assert "--embeddings" in flags
    assert "--pooling cls" in flags
    assert "embeddings: the mean of a text's tokens" in run_here("analyze", path, columns=100).stdout


def test_objectives(nemotron: Path) -> None:
    def plan(objective: str, *args: str) -> dict[str, Any]:
        with without_alternatives():
            done = run_here("plan", nemotron, *RIG, "--objective", objective, "--json", *args)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    latency, throughput = plan("latency"), plan("throughput")
    balance, context = plan("balance"), plan("context")
    assert latency["speed"]["step_s"] < throughput["speed"]["step_s"]
    assert throughput["speed"]["prompt_stage_s"] < latency["speed"]["prompt_stage_s"]
    assert latency["speed"]["step_s"] < balance["speed"]["step_s"]
    assert context["context"]["n_ctx"] > balance["context"]["n_ctx"]
    deep = plan("latency", "--n-ctx", "8k", "--expect-depth", "6k", "--expect-streams", "4")
    assert (deep["speed"]["depth"], deep["speed"]["streams"]) == (6144, 4)


def test_the_next_command_gives_the_same_plan(nemotron: Path) -> None:
    args = [*RIG, "--n-ctx", "2k", "--no-mmap", "--kv-type", "q8_0", "--cache-reuse=16", "-np", "2"]
    done = run_here("plan", "--model", nemotron, *args)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: "))
    assert words[-2:] == ["--emit", "llama-server"]
    with without_alternatives():
        again, plan = (
            json.loads(run_here(*of, "--json").stdout) for of in (words[1:-2], ["plan", nemotron, *args])
        )
    assert again["context"] == plan["context"]
    assert again["serving"]["cache_reuse"] == plan["serving"]["cache_reuse"] == 16
    assert again["estimate"]["devices"] == plan["estimate"]["devices"]


def test_next_serves_what_is_here(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "it's tiny.gguf")
    shown = run("plan", model.name, "--n-ctx", "1k", cwd=tmp_path, columns=200).stdout
    assert f"\nnext: vram-llm serve {shlex.quote(model.name)} --n-ctx 1k\n" in shown


def test_a_plan_as_a_string_is_its_report(nemotron: Path) -> None:
    from vram_llm.planner.types import Workload
    from vram_llm.workflows import detection, planning

    plan = planning.plan(str(nemotron), detection.detect(["RTX 4080 Laptop", "2x RTX 3090 Ti"]), Workload())
    assert str(plan).isascii()
    assert str(plan).split()[:4] == ["Fits", "on", "the", "cards."]
    assert "GPU2  RTX 3090 Ti" in str(plan)
    assert max(map(len, str(plan).splitlines())) <= 80


def test_an_assumed_speed_is_marked(nemotron: Path) -> None:
    done = run_here("plan", nemotron, "--gpu", "3x 24GiB", columns=100)
    assert done.returncode == 0
    assert "assumed" in done.stdout
    assert "is assumed (101 GB/s); name the card or its bandwidth" in " ".join(done.stdout.split())


def test_no_model_shows_the_machine_and_plans_the_built_in_one() -> None:
    done = run_here("plan", *RIG)
    assert "RTX 4080 Laptop" in done.stdout
    assert "vram-llm demo" in done.stdout
    assert "no model named: planning the built-in one, demo" in done.stderr
    found = json.loads(run_here("plan", *RIG, "--json").stdout)
    assert [device["what_if"] for device in found["devices"]] == [True] * 3
    assert found["host"]["cores"] >= 1
    here = run_here("plan")
    assert here.returncode == 0
    assert "host: " in here.stdout


def test_a_dictated_placement(nemotron: Path) -> None:
    args = ["--tensor-split", "0.2,0.4,0.4", "--n-gpu-layers", "60", "--n-ctx", "1k", "--reserve-mib", "512"]
    args += ["--ram", "64GiB"]  # for 21 layers, whatever other programs hold here
    with without_alternatives():
        plan = json.loads(run_here("plan", nemotron, *RIG, *args, "--json").stdout)
    assert plan["placement"]["n_gpu_layers"] == 60
    assert plan["placement"]["cpu_layers"] == 21
    assert plan["placement"]["tensor_split"] == [12, 24, 24]
    assert plan["devices"][0]["reserve_bytes"] == 512 * 2**20


def test_the_python_api_gives_what_the_command_gives(tmp_path: Path) -> None:
    from vram_llm.planner.types import Workload
    from vram_llm.workflows import detection, planning

    model = write_llama(tmp_path / "tiny.gguf")
    printed = json.loads(run_here("plan", model, "--gpu", "24GiB", "--n-ctx", "512", "--json").stdout)
    plan = planning.plan(str(model), detection.detect(["24GiB"]), Workload(n_ctx=512))
    assert printed["placement"]["tensor_split"] == list(plan.placement.tensor_split) == [5]


def test_what_the_engine_does_with_the_context_is_part_of_the_plan(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "tiny.gguf")
    chosen = json.loads(run_here("plan", model, "--json").stdout)
    assert chosen["serving"]["itl_target_ms"] == 100
    assert 0 < chosen["serving"]["slots_ram_bytes"] <= 8 * 2**30
    assert chosen["context"]["n_threads_batch"] is None
    given = ["--itl-target-ms", "50", "--cache-reuse", "0", "--slots-ram", "64MiB", "--slots-disk", "1GiB"]
    done = run_here("plan", model, "--json", *given, "--threads", "3", "--threads-batch", "5")
    plan = json.loads(done.stdout)
    assert plan["serving"].pop("idle_tokens") > 0
    assert plan["serving"] == {
        "itl_target_ms": 50, "cache_reuse": 0, "slots_ram_bytes": 64 * 2**20, "slots_disk_bytes": 2**30,
        "check_tensors": False,
    }  # fmt: skip
    assert (plan["context"]["n_threads"], plan["context"]["n_threads_batch"]) == (3, 5)


def test_more_host_memory_for_slots_than_there_is(tmp_path: Path) -> None:
    done = run_here("plan", write_llama(tmp_path / "tiny.gguf"), "--slots-ram", "900TiB")
    assert done.returncode == 23
    assert "--slots-ram asks for 900 TiB and the host has" in done.stderr.replace("\n", " ")


def test_auto_is_the_context_that_is_not_named(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "tiny.gguf")
    rig = ("--gpu", "24GB", "--json")
    plans = [json.loads(run_here("plan", model, *rig, *more).stdout) for more in ((), ("--n-ctx", "auto"))]
    assert plans[0]["context"] == plans[1]["context"]
    assert plans[0]["speed_at_end"]["depth"] == plans[0]["context"]["n_ctx"]
