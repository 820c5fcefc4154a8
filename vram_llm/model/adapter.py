"""LoRA adapters: which of a model's tensors one changes, and what its own take.

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
        """All of them."""
        in_layers = (tensor for layer in self.layers for tensor in layer)
        return (*self.input, *self.first_layer, *in_layers, *self.output)


def read_adapter(header: Header, arch: str, base: Iterable[str], n_layers: int) -> Adapter:
    """The adapter in `header`, of a model of `n_layers` whose tensors are called `base`.

    Raises ModelFileError where the file is no adapter, or one for another model.
    """
    said, where = header.metadata, header.path.name
    if (said.get("general.type"), said.get("adapter.type")) != ("adapter", "lora"):
        raise ModelFileError(
            f"{where} is {kind_of(header).value}; --lora takes what convert_lora_to_gguf.py makes"
        )
    if said.get("general.architecture") != arch:
        raise ModelFileError(
            f"{where} adapts models of architecture {said.get('general.architecture')!r}, not {arch!r}"
        )
    names = set(base)
    layers: list[list[Tensor]] = [[] for _ in range(n_layers)]
    outside: dict[Place, list[Tensor]] = {place: [] for place in Place}
    for info in header.tensors:
        if info.name.endswith("_norm.weight"):  # which llama.cpp passes over
            continue
        changed = info.name.removesuffix(_HALVES[0]).removesuffix(_HALVES[1])
        if changed == info.name or changed not in names:
            raise ModelFileError(f"{where} changes a tensor {changed!r} that the model does not have")
        if (found := layer_of(changed)) is not None:
            layers[found[0]].append(with_role(info, role_in_layer(found[1], Role.OTHER)))
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
