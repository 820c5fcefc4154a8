"""Models in the folders of other programs, laid out as those lay them out."""

import json
from pathlib import Path

import pytest

from tests import zoo
from tools.random_model import write_llama
from vram_llm.errors import ModelNotFound
from vram_llm.model import library

COMMIT, OLD = "c" * 40, "d" * 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a model in every place."""
    for name in ("HF_HUB_CACHE", "HF_HOME", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    model = write_llama(tmp_path / "m.gguf").read_bytes()

    def put(path: str, data: bytes = model) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    repo = ".cache/huggingface/hub/models--org--repo"
    put(f"{repo}/refs/main", COMMIT.encode())
    blob = put(f"{repo}/blobs/abc")
    for place in (f"{COMMIT}/m-Q8_0.gguf", f"{COMMIT}/mmproj-f16.gguf", f"{OLD}/m-Q4_0.gguf"):
        link = tmp_path / repo / "snapshots" / place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (tmp_path / repo / "snapshots" / COMMIT / "gone-Q8_0.gguf").symlink_to(tmp_path / "nowhere")
    put(".lmstudio/models/pub/repo/m.gguf")
    put(".lmstudio/models/pub/half/m-00001-of-00002.gguf")
    put(".cache/llama.cpp/org_repo_m.gguf")
    put(".cache/llama.cpp/org_repo_m.gguf.json", b"{}")
    digest = "0" * 64
    put(f".ollama/models/blobs/sha256-{digest}")
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "1" * 64},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
    ]
    for name in ("registry.ollama.ai/library/tiny/latest", "registry.ollama.ai/me/tiny/8b", "hf.co/a/b/c"):
        put(f".ollama/models/manifests/{name}", json.dumps({"layers": layers}).encode())
    put(".ollama/models/manifests/registry.ollama.ai/library/bad/latest", b"not json")
    evil = [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../../m.gguf"}]
    put(
        ".ollama/models/manifests/registry.ollama.ai/library/evil/latest",
        json.dumps({"layers": evil}).encode(),
    )
    return tmp_path


def test_everything_whole_is_found(home: Path) -> None:
    found = library.everything()
    assert [one.name for one in found] == [
        "hf:org/repo/m-Q8_0.gguf",
        f"hf:org/repo@{OLD}/m-Q4_0.gguf",
        "llama.cpp:org_repo_m.gguf",
        "lmstudio:pub/repo/m.gguf",
        "ollama:hf.co/a/b:c",
        "ollama:me/tiny:8b",
        "ollama:tiny:latest",
    ]
    size = (home / "m.gguf").stat().st_size
    assert {one.size_bytes for one in found} == {size}


def test_every_name_finds_its_file(home: Path) -> None:
    for one in library.everything():
        find = library.downloaded if one.name.startswith("hf:") else library.find
        assert find(one.name) == one.path
    assert library.find("ollama:tiny") == library.find("ollama:tiny:latest")


def test_a_quantisation_that_is_here_needs_no_server(home: Path) -> None:
    found = library.downloaded("hf:org/repo:Q8_0")
    assert found is not None
    assert found.name == "m-Q8_0.gguf"
    assert library.downloaded("hf:org/repo:Q4_0") is None
    assert library.downloaded("hf:org/other:Q8_0") is None
    assert library.downloaded("hf:org/repo") == found
    assert library.downloaded("hf:Org/Repo:q8_0") == found


def test_without_a_quantisation_and_with_several_models_names_are_asked_for(home: Path) -> None:
    snapshot = home / ".cache/huggingface/hub/models--org--repo/snapshots" / COMMIT
    (snapshot / "m-Q4_0.gguf").symlink_to(snapshot / "m-Q8_0.gguf")
    with pytest.raises(ModelNotFound, match=r"may be any of 2 models; name one as hf:org/repo/FILE"):
        library.downloaded("hf:org/repo")
    assert library.downloaded("hf:org/repo:Q4_0") == snapshot / "m-Q4_0.gguf"


def test_a_split_model_is_found_by_any_part(home: Path) -> None:
    snapshot = home / ".cache/huggingface/hub/models--org--repo/snapshots" / COMMIT
    (snapshot / "Q2_K").mkdir()
    first, second = (snapshot / f"Q2_K/s-0000{i}-of-00002.gguf" for i in (1, 2))
    for part in (first, second):
        part.symlink_to(snapshot / "m-Q8_0.gguf")
    assert library.downloaded("hf:org/repo/Q2_K/s-00002-of-00002.gguf") == first
    assert library.downloaded("hf:org/repo:Q2_K") == first


def test_where_main_is_not_known_the_newest_is_taken(home: Path) -> None:
    (home / ".cache/huggingface/hub/models--org--repo/refs/main").unlink()
    found = library.downloaded("hf:org/repo")
    assert found is not None
    assert found.name in ("m-Q8_0.gguf", "m-Q4_0.gguf")


def test_a_split_model_is_one(home: Path) -> None:
    folder = home / ".lmstudio" / "models" / "pub" / "big"
    folder.mkdir()
    zoo.write(zoo.llama(), folder / "big.gguf", shard_bytes=4 * 10**9)
    (split,) = (one for one in library.everything() if "/big/" in one.name)
    assert split.name == "lmstudio:pub/big/big-00001-of-00003.gguf"
    assert split.size_bytes == sum(part.stat().st_size for part in folder.iterdir())


def test_other_folders_by_variable(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    assert [one.name for one in library.everything()] == ["lmstudio:pub/repo/m.gguf"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ollama:tiny", "ollama:tiny:latest"),
        ("TINY:latest", "ollama:tiny:latest"),
        ("tiny:8b", "ollama:me/tiny:8b"),
        ("tiny 8B", "ollama:me/tiny:8b"),
        ("me/tiny", "ollama:me/tiny:8b"),
        ("m-Q8_0", "hf:org/repo/m-Q8_0.gguf"),
        ("repo:q8_0", "hf:org/repo/m-Q8_0.gguf"),
        ("M-q8_0.GGUF", "hf:org/repo/m-Q8_0.gguf"),
        ("lmstudio:m", "lmstudio:pub/repo/m.gguf"),
        ("pub", "lmstudio:pub/repo/m.gguf"),
    ],
)
def test_a_part_that_no_other_name_has_is_enough(home: Path, text: str, name: str) -> None:
    assert library.find(text) == {one.name: one.path for one in library.everything()}[name]


def test_several_names_for_one_file_are_one_model(home: Path) -> None:
    assert list(library.matching("ollama:b")) == ["ollama:hf.co/a/b:c", "ollama:me/tiny:8b"]
    assert library.find("ollama:b").name == "sha256-" + "0" * 64


def test_a_part_that_several_names_have_is_refused_with_all_of_them(home: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        library.find("repo")
    assert str(caught.value) == (
        "repo may be any of 4 models on this disk, so write more of its name: hf:org/repo/m-Q8_0.gguf, "
        f"hf:org/repo@{OLD}/m-Q4_0.gguf, llama.cpp:org_repo_m.gguf, lmstudio:pub/repo/m.gguf"
    )


def test_an_unknown_name_gets_the_nearest(home: Path) -> None:
    with pytest.raises(
        ModelNotFound, match=r"no model ollama:tinny on this disk: nearest are ollama:"
    ) as caught:
        library.find("ollama:tinny")
    assert "`vram-llm models` lists all" in str(caught.value)
    with pytest.raises(
        ModelNotFound, match=r"neither a file nor a model zzz on this disk; `vram-llm models`"
    ):
        library.find("zzz")


def test_the_shards_of_a_model_in_a_folder_are_one_model(tmp_path: Path) -> None:
    first = zoo.write(zoo.llama(), tmp_path / "m-Q8_0.gguf", shard_bytes=4 * 10**9)
    (tmp_path / "sub").mkdir()
    zoo.write(zoo.llama(), tmp_path / "sub" / "m-Q4_0.gguf", "Q4_0")
    (tmp_path / "mmproj-F16.gguf").touch()
    (tmp_path / "README.md").touch()
    assert list(library.models_below(tmp_path)) == [first.name, "sub/m-Q4_0.gguf"]
    first.unlink()
    assert list(library.models_below(tmp_path)) == ["m-Q8_0-00002-of-00003.gguf", "sub/m-Q4_0.gguf"]


def test_a_folder_without_models(tmp_path: Path) -> None:
    (tmp_path / "mmproj-F16.gguf").touch()
    with pytest.raises(ModelNotFound, match=r"holds no \.gguf model; name a folder that does"):
        library.models_below(tmp_path)
