"""Files of control vectors for tests."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np


def write_control_vector(
    path: Path, layers: Mapping[int, float], n_embd: int = 64, dtype: type = np.float32
) -> Path:
    """Write a vector of `n_embd` numbers, all the given one, for each of some layers."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(layers))
    for layer, value in layers.items():
        writer.add_tensor(f"direction.{layer}", np.full(n_embd, value, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
