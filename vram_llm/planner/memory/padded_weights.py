"""Bytes of a model's weights in one kind of buffer."""

from dataclasses import dataclass
from itertools import accumulate

from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import Role, Tensor
from vram_llm.planner.padding import padded


@dataclass(frozen=True, slots=True)
class PaddedWeights:
    """Bytes of a model's parts with the padding of one kind of buffer."""

    layer_sums: list[int]  # [i]: of all layers before i
    first_layer: int
    shared: int
    output: int  # with the copy of tied embeddings
    sharing_sums: list[int]  # [i]: the layers before i that load the shared tensors

    @classmethod
    def of(
        cls, profile: ModelProfile, alignment: int, row_padding: int, *, with_mtp: bool = False
    ) -> "PaddedWeights":
        """The bytes in buffers of this alignment and row padding; `with_mtp`: MTP blocks are loaded."""
        tied = token_embedding(profile) if profile.tied_output else []
        layer_bytes = (
            0 if layer.is_draft and not with_mtp else padded(layer.tensors, alignment, row_padding)
            for layer in profile.layers
        )
        return cls(
            layer_sums=[0, *accumulate(layer_bytes)],
            first_layer=padded(profile.first_layer_tensors, alignment, row_padding),
            shared=padded(profile.shared_tensors, alignment, row_padding),
            output=padded([*profile.output_tensors, *tied], alignment, row_padding),
            sharing_sums=[0, *accumulate(int(layer.loads_shared) for layer in profile.layers)],
        )

    def of_run(self, first: int, end: int, has_output: bool) -> int:
        """Bytes of layers first to end-1, with or without the output."""
        total = self.layer_sums[end] - self.layer_sums[first]
        if first == 0 < end:
            total += self.first_layer
        # each device whose layers use them has one copy: TENSOR_DUPLICATED in llama-model-loader.cpp
        if self.sharing_sums[end] > self.sharing_sums[first]:
            total += self.shared
        return total + self.output if has_output else total


class WeightsByPadding(dict[tuple[int, int], PaddedWeights]):
    """A model's weights by alignment and row padding of the buffer, made at first use."""

    def __init__(self, profile: ModelProfile, *, with_mtp: bool = False) -> None:
        """`with_mtp`: llama.cpp loads MTP blocks (llama_model_params.load_mtp)."""
        super().__init__()
        self._profile, self._with_mtp = profile, with_mtp

    def __missing__(self, key: tuple[int, int]) -> PaddedWeights:
        self[key] = found = PaddedWeights.of(self._profile, *key, with_mtp=self._with_mtp)
        return found


def token_embedding(profile: ModelProfile) -> list[Tensor]:
    """The tensors of the embedding, which tied embeddings use for the output too."""
    return [tensor for tensor in profile.input_tensors if tensor.role is Role.TOKEN_EMBD]
