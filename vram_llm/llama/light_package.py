"""The package llama_cpp without its class Llama, which this program does not use.

Llama imports numpy, jinja2 and much more: half of the time in which a child process starts.
"""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_NAME = "llama_cpp"
on_whole: list[Callable[[], None]] = []  # called after the package's own code, which sets llama.cpp's log
_VERSION = re.compile(r"""^__version__ = ["'](.+)["']$""", re.MULTILINE)


class _LightPackage(ModuleType):
    """A package whose own code runs when somebody asks for a name that is not a submodule."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # type: ignore[assignment]  # its code runs once
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        for call in on_whole:
            call()
        return getattr(self, name)


def prepare() -> str | None:
    """Let `import llama_cpp.SUBMODULE` leave out the package's own code; the version that this code gives.

    None if there is no llama_cpp, or no version in it. A package that is imported already stays as it is.
    """
    if _NAME not in sys.modules:
        spec = importlib.util.find_spec(_NAME)
        if spec is None:
            return None
        package = importlib.util.module_from_spec(spec)
        package.__class__ = _LightPackage
        sys.modules[_NAME] = package
    origin = sys.modules[_NAME].__file__
    found = _VERSION.search(Path(origin).read_text(encoding="utf-8")) if origin else None
    return found[1] if found else None
