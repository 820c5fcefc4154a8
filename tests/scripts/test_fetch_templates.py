import tarfile
from pathlib import Path

import pytest

from scripts import fetch_templates
from scripts.build_args import SetupError
from scripts.fetch_templates import fetched_templates, templates_folder, unpack_templates
from tests.chat.templates import NAMES, folder

PLACE = "llama_cpp_python-1/vendor/llama.cpp/models/templates"


def archive_of(path: Path, *names: str) -> Path:
    (path / "some").write_text("{{ messages }}")
    with tarfile.open(path / "source.tar.gz", "w:gz") as packed:
        for name in names:
            packed.add(path / "some", name)
    return path / "source.tar.gz"


def test_only_templates_are_unpacked(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, f"{PLACE}/a.jinja", f"{PLACE}/README.md", "elsewhere/b.jinja")
    unpack_templates(archive, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.jinja"]


def test_an_archive_without_templates_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"source\.tar\.gz holds no chat templates"):
        unpack_templates(archive_of(tmp_path, "b.jinja"), tmp_path / "out")


def test_they_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetches: list[Path] = []

    def fetch(scratch: Path, log: Path) -> Path:
        fetches.append(scratch)
        return archive_of(scratch, f"{PLACE}/a.jinja")

    monkeypatch.setattr(fetch_templates, "fetch_archive", fetch)
    assert fetched_templates() == fetched_templates() == templates_folder()
    assert (templates_folder() / "a.jinja").read_text() == "{{ messages }}"
    assert len(fetches) == 1
    assert not fetches[0].exists()


def test_the_names_are_those_of_the_pinned_version() -> None:
    assert sorted(NAMES) == sorted(file.stem for file in folder().iterdir())
