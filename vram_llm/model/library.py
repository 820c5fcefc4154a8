"""Models already on this disk, in the folders of other programs, and their names in this one.

hf:ORG/REPO/FILE.gguf            huggingface_hub's cache: HF_HUB_CACHE, HF_HOME/hub
lmstudio:PUBLISHER/REPO/FILE     LM Studio: ~/.lmstudio/models, ~/.cache/lm-studio/models
ollama:MODEL:TAG                 Ollama: OLLAMA_MODELS, ~/.ollama/models and that of its service on Linux
llama.cpp:FILE                   llama.cpp: LLAMA_CACHE, ~/.cache/llama.cpp, ~/Library/Caches/llama.cpp

Folders and variables are those in each program's documentation. A split model is listed only if all of its
parts are there.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vram_llm.errors import ModelNotFound
from vram_llm.model import hub, name_match
from vram_llm.model.location import HUB, LLAMA_CPP, LM_STUDIO, OLLAMA, is_kept
from vram_llm.model.shards import by_model, shard_name
from vram_llm.state_file import read_state
from vram_llm.units import MIB

_PROGRAMS = {HUB: "Hugging Face", LM_STUDIO: "LM Studio", OLLAMA: "Ollama", LLAMA_CPP: "llama.cpp"}
_SHOWN = 6
_MAX_REF_BYTES = 4096
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_REGISTRY = "registry.ollama.ai"
_OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """One model: its name for every command, its file (or first shard), and the bytes of all its files."""

    name: str
    path: Path
    size_bytes: int

    @property
    def kept_by(self) -> str:
        """The program that keeps the model in its folder."""
        return _PROGRAMS[self.name.partition(":")[0] + ":"]


class _Layer(msgspec.Struct):
    digest: str
    media_type: str = msgspec.field(name="mediaType")


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


def everything() -> list[InstalledModel]:
    """All models found, by name."""
    found = [*_hugging_face(), *_lm_studio(), *_ollama(), *_llama_cpp()]
    return sorted(found, key=lambda kept: kept.name.lower())


def find(text: str) -> Path:
    """The file of the one model that `text` names, in full or by a unique part of its name.

    Raises ModelNotFound, which lists the models that `text` may mean, or the nearest names.
    """
    found = matching(text)
    if len({path.resolve() for path in found.values()}) == 1:
        return next(iter(found.values()))
    if found:
        names = list(found)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ModelNotFound(
            f"{text} may be any of {len(names)} models on this disk, so write more of its name: "
            f"{', '.join(names[:_SHOWN])}{more}"
        )
    unknown = "there is no model" if is_kept(text) else "there is neither a file nor a model"
    near = name_match.nearest(text, [model.name for model in everything()])
    ways = f": nearest are {', '.join(near)}" if near else ""
    raise ModelNotFound(f"{unknown} {text} on this disk{ways}; `vram-llm models` lists all")


def matching(text: str) -> dict[str, Path]:
    """The files of the models that `text` may mean, by name."""
    paths = {model.name: model.path for model in everything()}
    return {name: paths[name] for name in name_match.meant(text, paths)}


def downloaded(name: str) -> Path | None:
    """The cached file of an `hf:` name; None if it is not in the cache.

    Any part of a split model finds it. A name without a quantisation means the repository's only model.
    Raises ModelNotFound if the name stands for several files of the cache.
    """
    model = hub.parse(name)
    there = cached(model)
    if model.file is not None:
        shard = shard_name(model.file)
        return there.get(model.file if shard is None else shard.part(1))
    return there[hub.choose(model, list(there))] if any(hub.matches(model, file) for file in there) else None


def cached(model: hub.HubModel) -> dict[str, Path]:
    """The models of a repository in the cache, by their path in the repository."""
    snapshot = _snapshot(model)
    return {path.relative_to(snapshot).as_posix(): path for path, _ in _models_in(snapshot)}


def models_below(folder: Path) -> dict[str, Path]:
    """The models anywhere below a folder, by their path in it; of a split model, its first part there.

    Parts may be missing. Raises ModelNotFound if there is no model.
    """
    names = (path.relative_to(folder).as_posix() for path in _files(folder))
    found = {name: folder / name for name in by_model(filter(hub.is_model_file, names))}
    if not found:
        raise ModelNotFound(f"{folder} holds no .gguf model; name a folder that does, or a file")
    return found


def _snapshot(model: hub.HubModel) -> Path:
    """The folder of a revision, which may not exist; if "main" is unknown, the newest folder."""
    folder = repository(model.repo)
    if not folder.is_dir():  # hubs ignore case in names
        cached = hub_cache().glob("models--*")
        same = (other for other in cached if other.name.lower() == folder.name.lower())
        folder = next(same, folder)
    revision = model.revision or "main"
    try:
        return folder / "snapshots" / _ref(folder / "refs" / revision)
    except OSError:  # a commit has no file in refs
        snapshots = sorted((folder / "snapshots").glob("*"), key=lambda snapshot: snapshot.stat().st_mtime)
        newest = snapshots[-1].name if snapshots and model.revision is None else revision
        return folder / "snapshots" / newest


def _hugging_face() -> Iterator[InstalledModel]:
    for snapshot in sorted(hub_cache().glob("models--*--*/snapshots/*")):
        _, org, repo = snapshot.parents[1].name.split("--", 2)
        for path, size_bytes in _models_in(snapshot):
            revision = "" if _is_main(snapshot) else f"@{snapshot.name}"
            file = path.relative_to(snapshot).as_posix()
            yield InstalledModel(f"{HUB}{org}/{repo}{revision}/{file}", path, size_bytes)


def _is_main(snapshot: Path) -> bool:
    try:
        return _ref(snapshot.parents[1] / "refs" / "main") == snapshot.name
    except OSError:
        return False


def _ref(path: Path) -> str:
    """The commit in a file of `refs`. Raises OSError."""
    return read_state(path, _MAX_REF_BYTES, follow=True).decode("utf-8", "replace").strip()


def _lm_studio() -> Iterator[InstalledModel]:
    for folder in (Path.home() / ".lmstudio" / "models", Path.home() / ".cache" / "lm-studio" / "models"):
        for path, size_bytes in _models_in(folder):
            yield InstalledModel(LM_STUDIO + path.relative_to(folder).as_posix(), path, size_bytes)


def _llama_cpp() -> Iterator[InstalledModel]:
    given = os.environ.get("LLAMA_CACHE")
    usual = (Path.home() / ".cache" / "llama.cpp", Path.home() / "Library" / "Caches" / "llama.cpp")
    for folder in (Path(given),) if given else usual:
        for path, size_bytes in _models_in(folder):
            yield InstalledModel(LLAMA_CPP + path.relative_to(folder).as_posix(), path, size_bytes)


def _ollama() -> Iterator[InstalledModel]:
    given = os.environ.get("OLLAMA_MODELS")
    for folder in (Path(given),) if given else (Path.home() / ".ollama" / "models", _OLLAMA_SERVICE):
        manifests = folder / "manifests"
        for manifest in _files(manifests):
            path = _ollama_blob(folder, manifest)
            if path is not None and path.is_file():
                *place, model, tag = manifest.relative_to(manifests).parts
                if place[:1] == [_OLLAMA_REGISTRY]:
                    place = [part for part in place[1:] if part != "library"]
                yield InstalledModel(f"{OLLAMA}{'/'.join([*place, model])}:{tag}", path, path.stat().st_size)


def _ollama_blob(folder: Path, manifest: Path) -> Path | None:
    try:
        layers = msgspec.json.decode(read_state(manifest, MIB, follow=True), type=_Manifest).layers
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    digests = [layer.digest for layer in layers if layer.media_type == _OLLAMA_MODEL]
    if len(digests) != 1 or not re.fullmatch(r"sha256:[0-9a-f]{64}", digests[0]):
        return None
    return folder / "blobs" / digests[0].replace(":", "-")


def _models_in(folder: Path) -> Iterator[tuple[Path, int]]:
    """Complete models anywhere below a folder, with the bytes of all their files."""
    for path in _files(folder):
        if not hub.is_model(path.name):
            continue
        shard = shard_name(path.name)
        parts = [path] if shard is None else [path.with_name(part) for part in shard.parts]
        try:
            yield path, sum(part.stat().st_size for part in parts)
        except OSError:
            continue  # a part is missing, or a link leads nowhere


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def repository(repo: str) -> Path:
    """The folder of "ORG/REPO" in huggingface_hub's cache."""
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def hub_cache() -> Path:
    """The folder of huggingface_hub's cache."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or Path("~", ".cache", "huggingface")
    return Path(home).expanduser() / "hub"
