"""The built-in model, with which everything can be tried without a download.

It is a llama of five layers and two million weights. It was trained to answer a few hundred questions on this
program and its environment, to call a tool and to think first. MODEL_CARD.md in this folder describes its
training and its limits; `make demo-model` trains it again.
"""

from importlib.resources import files
from pathlib import Path


def path() -> Path:
    """The path of the model file."""
    return Path(str(files(__name__) / "demo.gguf"))
