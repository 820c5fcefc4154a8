"""A folder is a name for the one model in it."""

from pathlib import Path

import pytest

from tests import zoo
from tools.random_model import write_llama
from vram_llm.errors import ModelNotFound
from vram_llm.workflows.model_names import folder_of, resolve


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_a_folder_with_one_model_stands_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    first = zoo.write(zoo.llama(), folder / "m-Q8_0.gguf", shard_bytes=4 * 10**9)
    (folder / "mmproj-F16.gguf").touch()
    assert resolve(str(folder)) == first
    write_llama(folder / "m-Q4_0.gguf")
    with pytest.raises(
        ModelNotFound,
        match=r"models holds 2 models, which `vram-llm plan` compares: name one of m-Q4_0.gguf, m-Q8",
    ):
        resolve(str(folder))


def test_an_installed_model_goes_before_a_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    here = write_llama(tmp_path / "tiny" / "other.gguf")
    monkeypatch.chdir(tmp_path)
    assert folder_of("tiny") == Path("tiny")
    assert resolve("tiny") == here.relative_to(tmp_path)
    kept = tmp_path / "home" / ".lmstudio" / "models" / "pub" / "repo"
    kept.mkdir(parents=True)
    installed = write_llama(kept / "tiny-Q8_0.gguf")
    assert resolve("tiny") == installed
    assert resolve("tiny/") == resolve("./tiny") == here.relative_to(tmp_path)
    assert folder_of("demo") is None
