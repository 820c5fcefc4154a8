"""Files that hold something other than a model are named, with the option that takes them."""

from pathlib import Path
from typing import Any

import pytest

from tests import zoo
from vram_llm.errors import ModelFileError
from vram_llm.model.adapter import read_adapter
from vram_llm.model.file_kind import FileKind, kind_of
from vram_llm.model.header import Header
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.model.projector import read_projector


def header_of(folder: Path, **metadata: Any) -> Header:
    model = zoo.llama(1, 64, 4, 2, 128, 96)
    model.metadata |= {key.replace("__", "."): value for key, value in metadata.items()}
    return read_header(zoo.write(model, folder / "m.gguf"))


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ({"general__type": "adapter", "adapter__type": "lora"}, FileKind.ADAPTER),
        ({"adapter__type": "lora"}, FileKind.ADAPTER),
        ({"general__type": "adapter", "adapter__type": "control_vector"}, FileKind.CONTROL_VECTOR),
        ({"general__architecture": "controlvector"}, FileKind.CONTROL_VECTOR),
        ({"general__type": "mmproj"}, FileKind.PROJECTOR),
        ({"general__architecture": "clip"}, FileKind.PROJECTOR),
        ({"general__type": "imatrix"}, FileKind.IMATRIX),
        ({"general__type": "model"}, FileKind.MODEL),
        ({}, FileKind.MODEL),
    ],
)
def test_kind_of(tmp_path: Path, metadata: dict[str, Any], kind: FileKind) -> None:
    header = header_of(tmp_path, **metadata)
    assert kind_of(header) is kind
    if kind is not FileKind.MODEL:
        with pytest.raises(ModelFileError, match=f"^m.gguf is {kind.value}$"):
            profile(header)


def test_a_model_in_the_place_of_another_file(tmp_path: Path) -> None:
    header = header_of(tmp_path)
    with pytest.raises(ModelFileError, match=r"m.gguf is a model: give it as MODEL; --mmproj takes"):
        read_projector(header)
    with pytest.raises(ModelFileError, match=r"m.gguf is a model: give it as MODEL; --lora takes"):
        read_adapter(header, "llama", (), 1)
