"""Control vectors: one vector for each layer, which is added to the layer's output.

Source: common_control_vector_load_one in common/common.cpp, llama_adapter_cvec in src/llama-adapter.cpp.
"""

import re
from collections.abc import Sequence

from vram_llm.errors import ModelFileError
from vram_llm.model.adapter import Adapter
from vram_llm.model.gguf import TensorInfo
from vram_llm.model.header import Header
from vram_llm.model.quants import TYPES
from vram_llm.model.tensors import Role, Tensor

_DIRECTION = re.compile(r"direction\.(\d+)")
_F32 = TYPES[0]


def layer_of_direction(tensor: TensorInfo) -> int | None:
    """The layer of a vector; None if it is none that llama.cpp reads."""
    found = _DIRECTION.fullmatch(tensor.name)
    is_vector = tensor.type is _F32 and all(n == 1 for n in tensor.shape[1:])
    return int(found[1]) if found and is_vector else None


def check_control_vector(header: Header, n_embd: int, n_layers: int) -> None:
    """Raises ModelFileError for a file that is no control vector, or one for another model."""
    name = header.path.name
    if not header.tensors:
        raise ModelFileError(f"{name} has no vectors; --control-vector takes a file of direction.1, ...")
    for tensor in header.tensors:
        layer = layer_of_direction(tensor)
        if not layer:
            raise ModelFileError(
                f"{name} is no control vector: {tensor.name!r} is no vector of numbers called direction.N"
            )
        if tensor.shape[0] != n_embd or layer > n_layers:
            raise ModelFileError(
                f"{name} is for another model: {tensor.name} has {tensor.shape[0]:,} numbers, and this one "
                f"has {n_layers} layers of {n_embd:,}"
            )


def control_vector_weights(headers: Sequence[Header], n_embd: int, n_layers: int, n_draft: int) -> Adapter:
    """The one vector of each layer but the first, in which llama.cpp keeps the sum of all files.

    It is allocated for layers without a vector too. Raises ModelFileError as `check_control_vector`.
    """
    for header in headers:
        check_control_vector(header, n_embd, n_layers - n_draft)
    n_bytes = n_embd * _F32.block_bytes

    def of(layer: int) -> tuple[Tensor, ...]:
        if not 0 < layer < n_layers - n_draft:
            return ()
        return (Tensor(f"direction.{layer}", (n_embd,), _F32, n_bytes, Role.OTHER),)

    layers = tuple(map(of, range(n_layers)))
    return Adapter(
        path=str(headers[0].path),
        name=headers[0].path.name,
        layers=layers,
        first_layer=(),
        input=(),
        output=(),
        total_bytes=sum(tensor.n_bytes for layer in layers for tensor in layer),
    )
