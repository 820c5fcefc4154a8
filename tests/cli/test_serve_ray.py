"""`serve --ray` and `worker --ray` without Ray; tests/fleet/ray/test_cluster.py has the rest."""

import sys
from pathlib import Path

import pytest

from tests.cli.running import run_here
from vram_llm.errors import MissingExtra
from vram_llm.workflows import ray_serving


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--ray", "local", "{model}"), "--ray serves named models: give NAME=MODEL, or --config FILE"),
        (("--ray", "local", "a={model}", "--rpc", "127.0.0.1:1"), "leave --rpc, --gpu and --device out"),
        (("--ray", "10.0.0.1:6379", "a={model}", "--port", "0"), "pip install 'vram-llm[ray]'"),
        (("--ray", "local", "--config", "{folder}/groups.yaml"), "leave groups: out"),
        (
            ("--ray", "local", "--config", "{folder}/all.yaml"),
            "all.yaml:2: each node has other models on",
        ),
    ],
)
def test_a_command_line_that_cannot_be_served(
    arguments: tuple[str, ...], sentence: str, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "all.yaml").write_text("models:\n  - source: installed\n")
    entries = "".join(f"  - {{name: {name}, source: {tiny_model}}}\n" for name in "ab")
    (tmp_path / "groups.yaml").write_text(f"models:\n{entries}groups:\n  - {{models: [a, b], apart: true}}\n")
    words = (argument.format(model=tiny_model, folder=tmp_path) for argument in arguments)
    result = run_here("serve", *words)
    assert result.returncode != 0
    assert sentence in " ".join(result.stderr.split())


def test_a_node_lends_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtra):
        ray_serving.node_command("head", {})
    monkeypatch.setattr("vram_llm.fleet.ray.ray_package.import_ray", lambda: None)
    head = ray_serving.node_command("head", {"vram_llm_host_mib": 512.0})
    assert '--resources={"vram_llm_host_mib": 512.0}' in head
    assert "--head" in head
    assert "--disable-usage-stats" in head
    assert "--address=10.0.0.1:6379" in ray_serving.node_command("10.0.0.1:6379", {})
