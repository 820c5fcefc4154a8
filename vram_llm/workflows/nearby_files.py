"""Projectors and adapters in a model's folder. Plans use the projector that fits; notes name the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vram_llm.errors import VramLLMError
from vram_llm.model.file_kind import FileKind, kind_of
from vram_llm.model.header import Header
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.types import Workload

_PROJECTOR_NAMES = ("mmproj",)
_ADAPTER_NAMES = ("lora", "adapter")
_OTHER_NAMES = ("imatrix",)
_MOST_READ = 16  # headers of each kind
_ALL_F32 = 0  # general.file_type (LLAMA_FTYPE_ALL_F32)


@dataclass(frozen=True, slots=True)
class NearbyFiles:
    """The projector to use, and a note on each file that is used or could be used."""

    mmproj: Header | None = None
    notes: tuple[str, ...] = ()


def nearby_files(model: Header, profile: ModelProfile, workload: Workload) -> NearbyFiles:
    """The files in a model's folder; none for a remote model or for one that computes embeddings.

    A projector fits if its vectors are as wide as the model's, and if it has the model's `general.basename`
    or the folder has no other model. Of several projectors, the largest with at most 16 bits is used.
    """
    if not isinstance(model.path, Path) or (workload.pooling or profile.pooling) is not None:
        return NearbyFiles()
    try:
        files = sorted(path for path in model.path.parent.iterdir() if path.suffix.lower() == ".gguf")
    except OSError:
        return NearbyFiles()
    adapters = _adapter_notes(files, model, workload)
    if workload.mmproj is not None or not workload.find_mmproj:
        return NearbyFiles(notes=adapters)
    fitting = [
        header
        for header in _headers(files, _PROJECTOR_NAMES, FileKind.PROJECTOR)
        if _width(header) == profile.n_embd
    ]
    own = [header for header in fitting if _belongs(header, model, files)]
    if not own:
        names = tuple(
            f"{header.path.name} in the model's folder may be its projector: `--mmproj {header.path}` uses it"
            for header in fitting
        )
        return NearbyFiles(notes=(*names, *adapters))
    chosen = max(own, key=_quality)
    of = f", the best of {len(own)} in the model's folder," if len(own) > 1 else " in the model's folder"
    note = f"{chosen.path.name}{of} is the projector for images: `--no-mmproj` leaves it out"
    return NearbyFiles(chosen, (note, *adapters))


def _adapter_notes(files: Sequence[Path], model: Header, workload: Workload) -> tuple[str, ...]:
    given = {Path(lora.path).absolute() for lora in workload.loras}
    architecture = model.metadata.get("general.architecture")
    return tuple(
        f"{header.path.name} in the model's folder is a LoRA adapter: `--lora {header.path}` applies it"
        for header in _headers(files, _ADAPTER_NAMES, FileKind.ADAPTER)
        if header.metadata.get("general.architecture") == architecture
        and Path(str(header.path)).absolute() not in given
    )


def _headers(files: Sequence[Path], names: Sequence[str], kind: FileKind) -> list[Header]:
    """The readable headers of one kind in files whose names contain one of `names`."""
    found = []
    for path in [path for path in files if _is_named(path, names)][:_MOST_READ]:
        try:
            header = read_header(path)
        except VramLLMError:
            continue
        if kind_of(header) is kind:
            found.append(header)
    return found


def _is_named(path: Path, names: Sequence[str]) -> bool:
    return any(name in path.name.lower() for name in names)


def _width(projector: Header) -> object:
    """Elements of a projector's vectors."""
    keys = ("clip.vision.projection_dim", "clip.audio.projection_dim")
    return next((projector.metadata[key] for key in keys if key in projector.metadata), None)


def _belongs(projector: Header, model: Header, files: Sequence[Path]) -> bool:
    names = [header.metadata.get("general.basename") for header in (projector, model)]
    if None not in names:
        return names[0] == names[1]
    own = {shard.path for shard in model.shards}
    others = (*_PROJECTOR_NAMES, *_ADAPTER_NAMES, *_OTHER_NAMES)
    return all(path in own or _is_named(path, others) for path in files)


def _quality(projector: Header) -> tuple[bool, int]:
    n_bytes = sum(tensor.n_bytes for tensor in projector.tensors)
    return projector.metadata.get("general.file_type") != _ALL_F32, n_bytes
