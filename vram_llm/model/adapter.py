"""LoRA adapters: the model tensors that an adapter changes, and the bytes of its own tensors.

Source: llama_adapter_lora_init_impl in src/llama-adapter.cpp of llama-cpp-python 0.3.36.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vram_llm.errors import ModelFileError
from vram_llm.model.file_kind import kind_of
from vram_llm.model.header import Header
from vram_llm.model.tensors import Place, Role, Tensor, layer_of, place_of, role_in_layer, with_role

_HALVES = (".lora_a", ".lora_b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One adapter's tensors, each on the device of the tensor it changes."""

    path: str
    name: str
    layers: tuple[tuple[Tensor, ...], ...]  # of the model's layers, in order
    first_layer: tuple[Tensor, ...]
    input: tuple[Tensor, ...]
    output: tuple[Tensor, ...]
    total_bytes: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the adapter."""
        in_layers = (tensor for layer in self.layers for tensor in layer)
        return (*self.input, *self.first_layer, *in_layers, *self.output)


def read_adapter(header: Header, arch: str, base: Iterable[str], n_layers: int) -> Adapter:
    """The adapter in `header`, for a model of `n_layers` layers whose tensor names are `base`.

    Raises ModelFileError if the file is not an adapter, or is an adapter for another model.
    """
    metadata, name = header.metadata, header.path.name
    if (metadata.get("general.type"), metadata.get("adapter.type")) != ("adapter", "lora"):
        raise ModelFileError(
            f"{name} is {kind_of(header).value}; --lora takes a file that convert_lora_to_gguf.py wrote"
        )
    if metadata.get("general.architecture") != arch:
        raise ModelFileError(
            f"{name} adapts models of architecture {metadata.get('general.architecture')!r}, not {arch!r}"
        )
    names = set(base)
    layers: list[list[Tensor]] = [[] for _ in range(n_layers)]
    outside: dict[Place, list[Tensor]] = {place: [] for place in Place}
    for info in header.tensors:
        if info.name.endswith("_norm.weight"):  # llama.cpp skips it
            continue
        changed = info.name.removesuffix(_HALVES[0]).removesuffix(_HALVES[1])
        if changed == info.name or changed not in names:
            raise ModelFileError(f"{name} changes a tensor {changed!r} that the model does not have")
        if (place := layer_of(changed)) is not None:
            layer, part = place
            layers[layer].append(with_role(info, role_in_layer(part, Role.OTHER)))
        else:
            outside[place_of(arch, changed)].append(with_role(info, Role.OTHER))
    return Adapter(
        path=str(header.path),
        name=header.path.name,
        layers=tuple(map(tuple, layers)),
        first_layer=tuple(outside[Place.FIRST_LAYER]),
        input=tuple(outside[Place.INPUT]),
        output=(*outside[Place.OUTPUT], *outside[Place.SHARED]),
        total_bytes=sum(info.n_bytes for info in header.tensors),
    )
