"""vram-llm pull against a hub on the loopback."""

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

from tests import zoo
from tests.cli.running import environment, run, run_here
from tests.model.range_server import Answer, RangeServer, running
from tools.random_model import write_llama
from vram_llm.model.fetch import PIECE_BYTES
from vram_llm.units import MIB

pytestmark = pytest.mark.process

COMMIT = "c" * 40
API, FILES = "/api/models/org/repo", "/org/repo/resolve"


class Hub:
    """A server with one repository of models, and a cache of its own."""

    def __init__(self, server: RangeServer, folder: Path) -> None:
        self.server = server
        self.cache = folder / "cache"
        self.answer(f"{API}/revision/main", {"sha": COMMIT})

    def answer(self, path: str, value: object) -> None:
        self.server.answers[path] = Answer(200, {}, json.dumps(value).encode())

    def offer(self, *files: Path) -> None:
        entries = [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "lfs": {"oid": f"{i:064x}"}}
            for i, file in enumerate(files)
        ]
        self.answer(f"{API}/tree/main?recursive=true", entries)
        for file in files:
            self.server.files |= {f"{FILES}/{revision}/{file.name}": file for revision in ("main", COMMIT)}

    def run(self, *args: str, here: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run `vram-llm` with this hub, within this process if `here`."""
        env = {name: value for name, value in environment(200).items() if not name.startswith("HF_")}
        env |= {"HF_ENDPOINT": self.server.url, "HF_HUB_CACHE": str(self.cache)}
        env["VRAM_LLM_CACHE_DIR"] = str(self.cache / "headers")
        return (run_here if here else run)(*args, env=env)

    def ranges(self) -> list[str]:
        """The requests for models after planning: they name the commit."""
        return [headers["range"] for path, headers in self.server.seen if COMMIT in path]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running() as server:
        yield Hub(server, tmp_path)


def test_a_model_is_planned_downloaded_and_then_here(hub: Hub, tmp_path: Path) -> None:
    model = write_llama(tmp_path / "m-Q8_0.gguf")
    hub.offer(model)
    done = hub.run("pull", "hf:org/repo:Q8_0", "--n-ctx", "512", here=False)
    assert done.returncode == 0, done.stderr
    assert "tiny llama of 4 layers Q8_0, " in done.stdout
    path, hint = done.stdout.splitlines()[-2:]
    assert Path(path).read_bytes() == model.read_bytes()
    assert hint == "vram-llm serve hf:org/repo:Q8_0"
    assert try_to_load_from_cache("org/repo", "m-Q8_0.gguf", cache_dir=hub.cache) == path
    hub.server.files.clear()
    hub.server.answers.clear()
    planned = hub.run("plan", "hf:org/repo:Q8_0", "--json")
    assert json.loads(planned.stdout)["model"]["path"] == path
    assert "m-Q8_0  " in hub.run("models").stdout
    assert hub.run("pull", "hf:org/repo:Q8_0").stdout.splitlines()[-2] == path


def test_an_interrupted_download_continues(hub: Hub, tmp_path: Path) -> None:
    model = write_llama(tmp_path / "m-Q8_0.gguf", n_embd=256, n_ff=[4096] * 8)
    size = model.stat().st_size
    assert PIECE_BYTES + MIB < size < 2 * PIECE_BYTES
    hub.offer(model)
    hub.server.breaks_at = PIECE_BYTES + MIB
    broken = hub.run("pull", "hf:org/repo:Q8_0")
    assert broken.returncode == 15, broken.stderr
    assert hub.ranges() == [f"bytes=0-{PIECE_BYTES - 1}", f"bytes={PIECE_BYTES}-{size - 1}"]
    hub.server.breaks_at = None
    hub.server.seen.clear()
    done = hub.run("pull", "hf:org/repo:Q8_0")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-2]).read_bytes() == model.read_bytes()
    assert hub.ranges() == [f"bytes={PIECE_BYTES}-{size - 1}"]


def test_a_model_that_does_not_fit_is_not_fetched_and_one_that_fits_is_named(
    hub: Hub, tmp_path: Path
) -> None:
    model = dataclasses.replace(zoo.llama(64), metadata={"general.name": "Long"})
    hub.offer(
        *(zoo.write(model, tmp_path / f"m-{quant}.gguf", quant) for quant in ("Q8_0", "Q4_0", "Q2_K")),
        write_llama(tmp_path / "other.gguf"),
    )
    rig = ("--gpu", "13GiB", "--n-ctx", "512", "--n-gpu-layers", "all", "--override-tensor", "none")
    done = hub.run("pull", "hf:org/repo:Q8_0", *rig)
    assert done.returncode == 2
    assert "short" in done.stderr
    assert "hf:org/repo:Q4_0 would fit" in done.stderr
    assert not hub.ranges()


def test_of_a_repository_the_best_quantisation_is_taken(hub: Hub, tmp_path: Path) -> None:
    models = [
        write_llama(tmp_path / f"m-{name}.gguf", n_vocab=n) for name, n in (("Q8_0", 320), ("BF16", 640))
    ]
    hub.offer(*models)
    planned = hub.run("plan", "hf:org/repo", "--n-ctx", "512")
    assert planned.returncode == 0, planned.stderr
    assert "next: vram-llm pull hf:org/repo:BF16 --n-ctx 512" in planned.stdout
    done = hub.run("pull", "hf:org/repo", "--n-ctx", "512")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Best: BF16, ")
    path, hint = done.stdout.splitlines()[-2:]
    assert Path(path).read_bytes() == models[1].read_bytes()
    assert hint == "vram-llm serve hf:org/repo:BF16"
    again = hub.run("plan", "hf:org/repo", "--n-ctx", "512", "--gpu", "RTX 3090")
    assert "next: vram-llm plan hf:org/repo:BF16" in again.stdout


def test_no_room_on_the_disk(hub: Hub, tmp_path: Path) -> None:
    hub.offer(zoo.write(zoo.deepseek2(), tmp_path / "m-Q8_0.gguf"))
    done = hub.run("pull", "hf:org/repo:Q8_0", "--gpu", "16x 80GiB")
    assert done.returncode == 35, done.stderr
    assert "to fetch; free some, or set HF_HUB_CACHE" in done.stderr
    assert not hub.ranges()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("hf:org/repo:Q2_K", 10, "has no model with Q2_K"),
        ("https://host/m.gguf", 64, "write hf:ORG/REPO:Q4_K_M"),
    ],
)
def test_faults(hub: Hub, tmp_path: Path, name: str, code: int, message: str) -> None:
    hub.offer(write_llama(tmp_path / "m-Q8_0.gguf"))
    done = hub.run("pull", name)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr
