"""The names that users write for models: files, folders, downloads, the built-in model."""

import re
from pathlib import Path

from vram_llm.errors import ModelNotFound
from vram_llm.model.location import HUB, is_kept, is_remote

DEMO = "demo"
_SHOWN = 5


def resolve(model: str) -> str | Path:
    """The file or the remote address that a name stands for.

    A name is a path, a folder that holds one model, an address, an `hf:` name, "demo", or a unique part of a
    name that `vram-llm models` lists. Raises ModelNotFound.
    """
    if model.lower().startswith(HUB):
        from vram_llm.model import library

        return library.downloaded(model) or model
    if is_remote(model):
        return model
    if (folder := folder_of(model)) is not None:
        return _only_model(folder)
    path = Path(model)
    if path.is_file() or path.is_absolute() or model.startswith("."):
        return path
    if model == DEMO:
        from vram_llm import demo

        return demo.path()
    from vram_llm.model import library

    is_missing_file = model.endswith(".gguf") and not is_kept(model) and not library.matching(model)
    return path if is_missing_file else library.find(model)


def folder_of(model: str) -> Path | None:
    """The folder that a name stands for; None if it stands for something else.

    The name of a folder in the working directory, without a slash, may be a part of an installed model's
    name; then it stands for that model.
    """
    path = Path(model)
    if is_remote(model) or model == DEMO or not path.is_dir():
        return None
    if path.is_absolute() or model.startswith(".") or len(path.parts) > 1 or model.endswith("/"):
        return path
    from vram_llm.model import library

    return None if library.matching(model) else path


def _only_model(folder: Path) -> Path:
    """The one model in a folder. Raises ModelNotFound if there are several or none."""
    from vram_llm.model import library

    found = library.models_below(folder)
    if len(found) == 1:
        return next(iter(found.values()))
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ModelNotFound(
        f"{folder} holds {len(found)} models, which `vram-llm plan` compares: name one of "
        f"{', '.join(list(found)[:_SHOWN])}{more}"
    )


def served_name(path: str) -> str:
    """The name of the model in the API: the file's name without suffix and shard number."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", Path(path).stem)
