"""The built-in model, so that everything can be tried with nothing downloaded.

A llama of five layers and two million weights, trained to answer a few hundred questions on this program and
on what it runs on, to call a tool and to think first. MODEL_CARD.md beside it says how it was made and what
it is not; `make demo-model` makes it again.
"""

from importlib.resources import files
from pathlib import Path


def path() -> Path:
    """Where the model file is."""
    return Path(str(files(__name__) / "demo.gguf"))
