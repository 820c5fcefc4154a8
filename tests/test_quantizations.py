"""Every quantisation in a folder and in a repository of a hub on the loopback, and the best of them."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import vram_llm
from tests import zoo
from tests.companions import write_mmproj
from tests.model.range_server import Answer, RangeServer, running
from vram_llm.errors import MissingShard, ModelNotFound, ModelRefused, RemoteError
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.types import Host, Machine
from vram_llm.machine.what_if import parse_rigs
from vram_llm.planner.best_quantization import Quantization
from vram_llm.planner.types import Workload
from vram_llm.units import GIB
from vram_llm.workflows.model_files import files_of
from vram_llm.workflows.quantizations import Quantizations, largest_that_fits, quantizations

pytestmark = pytest.mark.process

HOST = Host(name="desk", cores=8, total_bytes=64 * GIB, available_bytes=60 * GIB)
TREE = "/api/models/org/repo/tree/main?recursive=true"
FILES = "/org/repo/resolve/main/"
QUANTS = ("Q2_K", "Q4_K", "Q6_K", "Q8_0", "BF16")


def rig(*cards: str) -> Machine:
    """Cards in a computer that is fixed here."""
    return Machine(devices=parse_rigs(cards).devices, host=HOST)


def named(name: str, model: zoo.Model) -> zoo.Model:
    """The model under a name of its own."""
    return dataclasses.replace(model, metadata={**model.metadata, "general.name": name})


def write_quants(folder: Path, quants: tuple[str, ...] = QUANTS) -> None:
    """A repository with the quantisations of an 8B llama."""
    folder.mkdir(exist_ok=True)
    for quant in quants:
        zoo.write(named("Tiny Llama", zoo.llama()), folder / f"m-{quant}.gguf", quant)


def by_label(found: Quantizations) -> dict[str, Quantization]:
    """The rows by label."""
    return {row.label: row for row in found.quantizations}


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    """One process of llama.cpp for all tests here."""
    with DryRun() as dry:
        yield dry


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """A hub, and a cache of its own."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VRAM_LLM_CACHE_DIR", str(tmp_path / "headers"))
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def offer(hub: RangeServer, folder: Path) -> None:
    """Let the hub have all files of a folder in org/repo."""
    entries = []
    for path in sorted(folder.rglob("*.gguf")):
        name = path.relative_to(folder).as_posix()
        hub.files[FILES + name] = path
        entries.append({"type": "file", "path": name, "size": path.stat().st_size})
    hub.answers[TREE] = Answer(200, {}, json.dumps(entries).encode())


def test_a_folder_of_quantisations(tmp_path: Path, dry: DryRun) -> None:
    write_quants(tmp_path / "m")
    found = vram_llm.quantizations(str(tmp_path / "m"), rig("RTX 3060 12GB"), Workload(), dry)
    assert [row.label for row in found.quantizations] == [f"m-{quant}" for quant in reversed(QUANTS)]
    rows = by_label(found)
    assert {row.model for row in rows.values()} == {"Tiny Llama"}
    assert [row.label for row in found.best] == ["m-Q8_0"]
    best, smaller, larger = rows["m-Q8_0"], rows["m-Q6_K"], rows["m-BF16"]
    assert (best.method, best.is_on_cards, best.name) == (
        "dry run",
        True,
        str(tmp_path / "m" / "m-Q8_0.gguf"),
    )
    assert (smaller.method, smaller.is_on_cards, smaller.is_best) == ("analytic", True, False)
    assert best.tokens_per_s is not None
    assert smaller.tokens_per_s is not None
    assert smaller.tokens_per_s > best.tokens_per_s
    assert (smaller.n_ctx or 0) > (best.n_ctx or 0) >= 8192
    assert (larger.fits, larger.is_on_cards) == (True, False)
    assert (larger.cpu_layers or larger.cpu_ffn_layers or 0) > 0


def test_a_plan_of_the_best_says_the_same(tmp_path: Path, dry: DryRun) -> None:
    write_quants(tmp_path / "m", ("Q4_K", "Q8_0"))
    machine, workload = rig("RTX 4070"), Workload(n_ctx=8192)
    (best,) = quantizations(str(tmp_path / "m"), machine, workload, dry).best
    plan = vram_llm.plan(best.name, machine, workload, dry)
    assert plan.speed is not None
    assert best.tokens_per_s == pytest.approx(plan.speed.tokens_per_s, rel=1e-3)
    assert best.basis == plan.speed.basis


def test_the_dry_run_finds_that_a_larger_one_is_on_the_cards(tmp_path: Path, dry: DryRun) -> None:
    write_quants(tmp_path / "m", ("Q6_K", "Q8_0"))
    machine, workload = rig("24GB@1000GB/s"), Workload(n_ctx=8192)
    plan = vram_llm.plan(str(tmp_path / "m" / "m-Q8_0.gguf"), machine, workload, dry)
    (card,) = machine.devices
    tight = plan.estimate.devices[0].total_bytes + workload.reserve_bytes
    machine = dataclasses.replace(machine, devices=(dataclasses.replace(card, free_bytes=tight),))
    found = quantizations(str(tmp_path / "m"), machine, workload, dry)
    assert [(row.label, row.method) for row in found.best] == [("m-Q8_0", "dry run")]


def test_nothing_fits(tmp_path: Path, dry: DryRun) -> None:
    write_quants(tmp_path / "m", ("Q4_K", "Q8_0"))
    machine = dataclasses.replace(rig("4GB"), host=dataclasses.replace(HOST, available_bytes=2 * GIB))
    found = quantizations(str(tmp_path / "m"), machine, Workload(), dry)
    large, small = found.quantizations
    assert found.best == ()
    assert (large.short_bytes or 0) > (small.short_bytes or 0) > 0
    assert (small.n_ctx, small.tokens_per_s, small.basis) == (None, None, None)


def test_what_is_no_row(tmp_path: Path, dry: DryRun) -> None:
    folder = tmp_path / "m"
    write_quants(folder, ("Q4_K",))
    zoo.write(named("Tiny Llama", zoo.llama()), folder / "m-Q8_0.gguf", "Q8_0", shard_bytes=4 * 10**9)
    write_mmproj(folder / "mmproj-F16.gguf", n_text=4096)
    write_mmproj(folder / "eyes.gguf", n_text=4096)  # by its header
    zoo.write(zoo.llama(2), folder / "m-draft-Q8_0.gguf")
    zoo.write(zoo.llama(1), folder / "mtp-Q8_0.gguf")
    adapter = dataclasses.replace(zoo.llama(1), metadata={"general.type": "adapter", "adapter.type": "lora"})
    zoo.write(adapter, folder / "my-style.gguf")
    zoo.write(zoo.llama(1), folder / "m.imatrix.gguf")
    eagle = dataclasses.replace(zoo.llama(1), arch="eagle3")
    zoo.write(eagle, folder / "m-head.gguf")
    found = quantizations(str(folder), rig("RTX 3090"), Workload(), dry)
    assert [row.label for row in found.quantizations] == ["m-Q8_0", "m-Q4_K"]
    assert found.quantizations[0].bytes == sum(path.stat().st_size for path in folder.glob("m-Q8_0-*"))


def test_a_broken_file_is_a_row_with_the_reason(tmp_path: Path, dry: DryRun) -> None:
    folder = tmp_path / "m"
    write_quants(folder, ("Q4_K",))
    zoo.write(zoo.llama(), folder / "m-Q8_0.gguf", shard_bytes=4 * 10**9)
    (folder / "m-Q8_0-00001-of-00003.gguf").unlink()
    (folder / "text.gguf").write_text("this is no model")
    found = quantizations(str(folder), rig("RTX 3090"), Workload(), dry)
    good, *broken = found.quantizations
    assert (good.label, good.is_best) == ("m-Q4_K", True)
    assert [(row.label, row.fits, row.model) for row in broken] == [
        ("m-Q8_0", None, None),
        ("text", None, None),
    ]
    assert "1 of the model's 3 parts is not in" in (broken[0].reason or "")
    assert "is not a GGUF file" in (broken[1].reason or "")
    (folder / "m-Q4_K.gguf").unlink()
    with pytest.raises(MissingShard):
        quantizations(str(folder), rig("RTX 3090"), Workload(), dry)


def test_each_of_several_models_has_a_best(tmp_path: Path, dry: DryRun) -> None:
    folder = tmp_path / "m"
    write_quants(folder, ("Q4_K", "Q8_0"))
    for quant in ("Q4_K", "Q8_0"):
        zoo.write(named("Other Llama", zoo.llama(16)), folder / f"o-{quant}.gguf", quant)
    for quant in ("Q4_K", "Q8_0"):
        zoo.write(named(f"Tiny Llama {quant}", zoo.llama(12)), folder / f"s-{quant}.gguf", quant)
    found = quantizations(str(folder), rig("RTX 3060 12GB"), Workload(), dry)
    assert [(row.model, row.label) for row in found.best] == [
        ("Tiny Llama", "m-Q8_0"),
        ("Other Llama", "o-Q8_0"),
        ("Tiny Llama (3.67B)", "s-Q8_0"),
    ]


def test_a_model_that_llama_cpp_does_not_know(tmp_path: Path, dry: DryRun) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for quant in ("Q4_K", "Q8_0"):
        zoo.write(dataclasses.replace(zoo.llama(), arch="lemur"), folder / f"l-{quant}.gguf", quant)
    with pytest.raises(ModelRefused, match="lemur"):
        quantizations(str(folder), rig("RTX 3090"), Workload(), dry)
    write_quants(folder, ("Q4_K",))
    found = quantizations(str(folder), rig("RTX 3090"), Workload(), dry)
    assert [row.label for row in found.best] == ["m-Q4_K"]
    assert "lemur" in (by_label(found)["l-Q8_0"].reason or "")


def test_a_repository(hub: RangeServer, tmp_path: Path, dry: DryRun) -> None:
    folder = tmp_path / "repo"
    write_quants(folder, ("Q2_K", "Q4_K", "Q6_K"))
    (folder / "m-Q2_K.gguf").rename(folder / "m-UD-Q2_K.gguf")
    (folder / "BF16").mkdir()
    zoo.write(
        named("Tiny Llama", zoo.llama()), folder / "BF16" / "m-BF16.gguf", "BF16", shard_bytes=4 * 10**9
    )
    zoo.write(named("Tiny Llama", zoo.llama()), folder / "m-Q4_K-new.gguf", "Q4_K")
    write_mmproj(folder / "mmproj-F16.gguf", n_text=4096)
    offer(hub, folder)
    found = quantizations("hf:org/repo", rig("RTX 3060 12GB"), Workload(), dry)
    assert found.source == "hf:org/repo"
    assert {row.label: row.name for row in found.quantizations} == {
        "BF16": "hf:org/repo:BF16",
        "Q6_K": "hf:org/repo:Q6_K",
        "m-Q4_K": "hf:org/repo/m-Q4_K.gguf",  # Q4_K may be either
        "m-Q4_K-new": "hf:org/repo/m-Q4_K-new.gguf",
        "UD-Q2_K": "hf:org/repo:UD-Q2_K",
    }
    assert [row.label for row in found.best] == ["Q6_K"]
    assert not any(row.is_on_disk for row in found.quantizations)
    largest = found.quantizations[0]
    assert largest.bytes == sum(path.stat().st_size for path in (folder / "BF16").iterdir())
    assert hub.sent_bytes < 10**7
    for row in found.quantizations:
        assert files_of(row.name) is None
        assert vram_llm.analyze(row.name).total_bytes


def test_without_a_connection_the_cache_is_listed(
    hub: RangeServer, tmp_path: Path, dry: DryRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFound, match="no hf:org/repo on"):
        quantizations("hf:org/repo", rig("RTX 3090"), Workload(), dry)
    snapshot = tmp_path / "cache" / "models--org--repo" / "snapshots" / ("c" * 40)
    snapshot.parent.mkdir(parents=True)
    write_quants(snapshot, ("Q4_K", "Q8_0"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    found = quantizations("hf:org/repo", rig("RTX 3090"), Workload(), dry)
    assert [(row.name, row.is_on_disk) for row in found.quantizations] == [
        ("hf:org/repo:Q8_0", True),
        ("hf:org/repo:Q4_K", True),
    ]
    assert len(found.notes) == 1
    assert "these are the files on this disk, since 127.0.0.1:1 cannot be reached" in found.notes[0]
    with pytest.raises(RemoteError, match="cannot be reached"):
        quantizations("hf:org/other", rig("RTX 3090"), Workload(), dry)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.seen)
    assert "HF_HUB_OFFLINE is set" in quantizations("hf:org/repo", rig("RTX 3090"), Workload(), dry).notes[0]
    assert len(hub.seen) == asked


def test_a_file_on_this_disk_is_not_asked_of_the_hub(hub: RangeServer, tmp_path: Path, dry: DryRun) -> None:
    folder = tmp_path / "repo"
    write_quants(folder, ("Q4_K", "Q8_0"))
    offer(hub, folder)
    snapshot = tmp_path / "cache" / "models--org--repo" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "m-Q8_0.gguf").symlink_to(folder / "m-Q8_0.gguf")
    found = quantizations("hf:org/repo", rig("RTX 3090"), Workload(), dry)
    assert [(row.label, row.is_on_disk) for row in found.quantizations] == [("Q8_0", True), ("Q4_K", False)]
    assert {path for path, _ in hub.seen} == {TREE, f"{FILES}m-Q4_K.gguf"}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [([], r"holds no \.gguf model"), (["README.md", "mmproj-F16.gguf"], r"holds no \.gguf model")],
)
def test_no_model_there(
    hub: RangeServer, tmp_path: Path, dry: DryRun, files: list[str], sentence: str
) -> None:
    entries = [{"type": "file", "path": name, "size": 1} for name in files]
    hub.answers[TREE] = Answer(200, {}, json.dumps(entries).encode())
    (tmp_path / "m").mkdir()
    for name in files:
        (tmp_path / "m" / name).touch()
    for name in ("hf:org/repo", str(tmp_path / "m")):
        with pytest.raises(ModelNotFound, match=sentence):
            quantizations(name, rig("RTX 3090"), Workload(), dry)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="neither a folder nor a repository"):
        quantizations(str(zoo.write(zoo.llama(), tmp_path / "m.gguf")), rig("RTX 3090"))


def test_the_largest_that_fits_is_of_the_same_model(hub: RangeServer, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    write_quants(folder, ("Q4_K", "Q8_0"))
    zoo.write(named("Other", zoo.llama(16)), folder / "o-Q6_K.gguf", "Q6_K")
    offer(hub, folder)
    small = dataclasses.replace(rig("8GB"), host=dataclasses.replace(HOST, available_bytes=2 * GIB))
    other = largest_that_fits("hf:org/repo:Q8_0", small, Workload())
    assert other is not None
    assert other.name == "hf:org/repo:Q4_K"
