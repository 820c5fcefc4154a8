"""llama-server without a model: the models of its presets and folder, which its router serves."""

from pathlib import Path

from vram_llm.cli.imported.imported_fleet import ImportedFleet
from vram_llm.cli.imported.imported_model import ImportedModel
from vram_llm.cli.imported.presets_file import models_in, read_presets
from vram_llm.cli.llama_server_line.read_line import ReadLine

_INSTALLED = ImportedModel(name="installed", source="installed", values={})


def router_fleet(line: ReadLine) -> ImportedFleet:
    """The models of --models-preset and --models-dir; all installed ones if neither is given.

    A preset replaces a model of the folder with its name. Raises BadConfig and ModelNotFound.
    """
    presets, folder = line.last("--models-preset"), line.last("--models-dir")
    found: dict[str, ImportedModel] = {}
    if folder is not None:
        found |= {model.name: model for model in models_in(Path(str(folder.value)))}
    if presets is not None:
        found |= {model.name: model for model in read_presets(Path(str(presets.value))).models}
    if presets is None and folder is None:
        found[_INSTALLED.name] = _INSTALLED
    return ImportedFleet(models=tuple(found.values()))
