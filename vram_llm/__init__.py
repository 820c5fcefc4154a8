"""Plan a GGUF model over unequal GPUs to the byte, and serve it with an OpenAI endpoint.

    from vram_llm.api import analyze, detect, plan, serve, verify

`vram_llm.analyze`, `.detect`, `.serve` and `.verify` are the same functions, imported at first use, so that
importing the package costs nothing. `vram_llm.plan` is not: that name is the package of the planner's parts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vram_llm.api import analyze, detect, serve, verify

__all__ = ["__version__", "analyze", "detect", "serve", "verify"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("vram_llm.api"), name)
