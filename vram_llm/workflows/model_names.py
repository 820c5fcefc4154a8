"""The names users give models: files, downloads, the built-in one."""

import re
from pathlib import Path

from vram_llm.model.location import HUB, is_kept, is_remote

DEMO = "demo"


def resolve(model: str) -> str | Path:
    """The file, or the place elsewhere, that a name stands for. Raises ModelNotFound."""
    if model.lower().startswith(HUB):
        from vram_llm.model import library

        return library.downloaded(model) or model
    if is_remote(model):
        return model
    if is_kept(model):
        from vram_llm.model import library

        return library.find(model)
    if model != DEMO or Path(model).exists():
        return Path(model)
    from vram_llm import demo

    return demo.path()


def served_name(path: str) -> str:
    """What clients call the model in `path`: the file's name without suffix and shard number."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", Path(path).stem)
