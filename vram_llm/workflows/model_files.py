"""The models in a repository or a folder, by the names that commands take."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from vram_llm.errors import ModelNotFound, RemoteError
from vram_llm.model import hub, library
from vram_llm.model.http_client import HttpClient, HubEndpoint
from vram_llm.model.location import HUB, RemoteFile
from vram_llm.model.shards import stem
from vram_llm.workflows.model_names import folder_of

_T = TypeVar("_T")

_TAG = re.compile(
    r"(?<![a-z0-9])(?:ud-|i1-)?(?:i?q\d+(?:_\w+)?|b?f16|f32|fp16|mxfp4\w*|nvfp4|tq\d_\d)(?=[-./]|$)",
    re.IGNORECASE,
)
_DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model in a list of files. `file` is its first shard."""

    name: str  # as commands take it
    label: str
    file: Path | RemoteFile
    n_bytes: int | None


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The models that a name stands for, and notes on how they were found."""

    source: str
    files: tuple[ModelFile, ...]
    notes: tuple[str, ...] = ()


def files_of(model: str) -> ModelFiles | None:
    """The models in the folder or repository that `model` names; None if it names a file or a quantisation.

    Without a connection to the hub, they are those of the cache. Raises ModelNotFound if there is none, and
    RemoteError.
    """
    if (folder := folder_of(model)) is not None:
        return _in_folder(folder)
    if not model.lower().startswith(HUB):
        return None
    hub_model = hub.parse(model)
    return None if hub_model.file or hub_model.tag else _in_repository(model, hub_model)


def without_tag(name: str) -> str:
    """A model's name without the name of a quantisation."""
    return _TAG.sub("", name).rstrip("-._ ") or name


def _in_folder(folder: Path) -> ModelFiles:
    found = _without_drafts(library.models_below(folder))
    short = [stem(name) for name in found]
    files = tuple(
        ModelFile(str(path), stem(name) if short.count(stem(name)) == 1 else _whole_stem(name), path, None)
        for name, path in found.items()
    )
    return ModelFiles(str(folder), files)


def _in_repository(model: str, hub_model: hub.HubModel) -> ModelFiles:
    here = library.cached(hub_model)
    endpoint = hub.endpoint()
    notes: tuple[str, ...] = ()
    listed: dict[str, int | None]
    try:
        listed = _listed_by_hub(model, hub_model, endpoint)
    except (RemoteError, ModelNotFound) as error:
        if not here:
            raise
        listed = dict.fromkeys(here)
        notes = (f"these are the files on this disk, since {error}",)
    found = _without_drafts(listed)
    if not found:
        raise ModelNotFound(f"{hub_model.label} holds no .gguf model; find a repository that does")
    files = []
    for path, n_bytes in found.items():
        tag = _unique_tag(hub_model, path, list(found))
        name = f"{hub_model.label}/{path}" if tag is None else f"{hub_model.label}:{tag}"
        file = here.get(path) or hub.file_at(hub_model, path, endpoint)
        files.append(ModelFile(name, tag or _whole_stem(path), file, n_bytes))
    return ModelFiles(hub_model.label, tuple(files), notes)


def _listed_by_hub(model: str, hub_model: hub.HubModel, endpoint: HubEndpoint) -> dict[str, int | None]:
    """The bytes of each model in a repository, by path. Raises ModelNotFound, RemoteError."""
    if hub.is_offline():
        raise RemoteError("HF_HUB_OFFLINE is set, so the hub is not asked")
    with HttpClient(endpoint) as client:
        sizes = hub.models(model, endpoint, client)
    return {name.removeprefix(f"{hub_model.label}/"): n_bytes for name, n_bytes in sizes.items()}


def _without_drafts(found: dict[str, _T]) -> dict[str, _T]:
    """The files without draft models, unless all are."""
    others = {name: value for name, value in found.items() if _DRAFT not in name.lower()}
    return others or found


def _whole_stem(path: str) -> str:
    """A path without shard number and `.gguf`: "BF16/m-BF16"."""
    folder, slash, _ = path.rpartition("/")
    return f"{folder}{slash}{stem(path)}"


def _unique_tag(hub_model: hub.HubModel, path: str, files: list[str]) -> str | None:
    """The quantisation in a file's name with which a name on the hub means this file; None if none does."""
    for tag in reversed(_TAG.findall(_whole_stem(path))):
        try:
            if hub.choose(replace(hub_model, tag=tag), files) == path:
                return str(tag)
        except ModelNotFound:
            continue
    return None
