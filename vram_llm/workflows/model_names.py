"""The names that users write for models: files, downloads, the built-in model."""

import re
from pathlib import Path

from vram_llm.model.location import HUB, is_kept, is_remote

DEMO = "demo"


def resolve(model: str) -> str | Path:
    """The file or the remote address that a name stands for.

    A name is a path, an address, an `hf:` name, "demo", or a unique part of a name that `vram-llm models`
    lists. Raises ModelNotFound.
    """
    if model.lower().startswith(HUB):
        from vram_llm.model import library

        return library.downloaded(model) or model
    if is_remote(model):
        return model
    path = Path(model)
    if path.is_file() or path.is_absolute() or model.startswith("."):
        return path
    if model == DEMO:
        from vram_llm import demo

        return demo.path()
    from vram_llm.model import library

    is_missing_file = model.endswith(".gguf") and not is_kept(model) and not library.matching(model)
    return path if is_missing_file else library.find(model)


def served_name(path: str) -> str:
    """The name of the model in the API: the file's name without suffix and shard number."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", Path(path).stem)
