"""Lines of llama-server that become a file: its router, and a named model that is unloaded when idle."""

from collections.abc import Sequence
from pathlib import Path

from vram_llm.cli.imported.imported_fleet import ImportedFleet
from vram_llm.cli.imported.imported_model import ImportedModel, serve_options
from vram_llm.cli.imported.presets_file import models_in, read_presets
from vram_llm.cli.llama_server_line.read_line import ReadLine
from vram_llm.errors import BadConfig

_INSTALLED = ImportedModel(name="installed", source="installed", values={})


def router_fleet(line: ReadLine) -> ImportedFleet | None:
    """The models of --models-preset and --models-dir, or else all installed ones; None without any.

    A preset replaces a model of the folder with its name. Raises BadConfig and ModelNotFound.
    """
    presets, folder = line.last("--models-preset"), line.last("--models-dir")
    found: dict[str, ImportedModel] = {}
    if folder is not None:
        found |= {model.name: model for model in models_in(Path(str(folder.value)))}
    if presets is not None:
        found |= {model.name: model for model in read_presets(Path(str(presets.value))).models}
    if presets is None and folder is None:
        if not _any_installed():
            return None
        found[_INSTALLED.name] = _INSTALLED
    if presets is not None and not found:
        raise BadConfig(f"the presets {presets.value} have no model: a section [NAME] with its keys is one")
    return ImportedFleet(models=tuple(found.values()))


def _any_installed() -> bool:
    """Whether a model on this disk fits this machine."""
    from vram_llm.planner.types import Workload
    from vram_llm.workflows import detection
    from vram_llm.workflows.model_list import listed_models

    return any(each.fits for each in listed_models(detection.detect(), Workload()))


def sleeping_fleet(arguments: Sequence[str]) -> tuple[ImportedFleet, list[str]] | None:
    """A named model that is unloaded when idle, in a file of one entry, and the arguments that are left.

    None for other models: without a name or without a time they need no file.
    """
    names, source, left, sleeps = [], "", [], False
    for option, flag, value in serve_options(arguments):
        if flag in ("--served-model-name", "--alias"):
            names.append(str(value))
        elif flag == "--model":
            source = str(value)
        else:
            left += [flag] if option.is_flag else [flag, str(value)]
            sleeps = sleeps or flag == "--ttl"
    if not (names and source and sleeps):
        return None
    model = ImportedModel(name=names[0], source=source, aliases=tuple(names[1:]), values={"preload": True})
    return ImportedFleet(models=(model,)), left
