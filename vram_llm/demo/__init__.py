"""The built-in model, so that everything can be tried with nothing downloaded.

A llama of four layers with a real byte-level BPE vocabulary of 2,048 tokens and a ChatML template. Its
weights are random: it loads, plans, batches and streams as any model does, and its answers are noise.
`tools/demo_model/make.py` writes it.
"""

from importlib.resources import files
from pathlib import Path


def path() -> Path:
    """Where the model file is."""
    return Path(str(files(__name__) / "demo.gguf"))
