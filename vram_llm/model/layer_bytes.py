"""The bytes of each layer, by the purpose of its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

from vram_llm.model import rules
from vram_llm.model.gguf import TensorInfo
from vram_llm.model.layer_memory import LayerMemory
from vram_llm.model.tensors import (
    LayerPart,
    Role,
    Tensor,
    is_attention_weight,
    is_in_part,
    role_in_layer,
    with_role,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One block. `bytes` is the sum of its tensors, unpadded, and of the five parts that follow it."""

    index: int
    tensors: tuple[Tensor, ...]
    bytes: int
    attention_bytes: int
    ffn_bytes: int
    expert_bytes: int
    recurrent_bytes: int
    other_bytes: int
    active_bytes: int  # read for one token: of the routed experts only those used
    n_embd_k_gqa: int  # elements of K a token stores here; 0 where the layer stores none
    n_embd_v_gqa: int  # of V; 0 with MLA, which stores only K
    has_values: bool  # the cache has a V; without flash attention it is as wide as the widest, even if 0
    sliding_window: bool
    recurrent_state_bytes: int  # f32, per sequence; 0 where the layer is not recurrent
    head_k_gqa: int  # elements of K a token stores in the cache of the MTP head's context; of V: head_v_gqa
    head_v_gqa: int
    is_draft: bool  # an MTP block: llama.cpp loads its weights only with load_mtp
    loads_shared: bool  # puts the shared tensors on its device

    def tensors_of(self, part: LayerPart) -> tuple[Tensor, ...]:
        """The tensors of `part`; empty if the layer has none."""
        return tuple(tensor for tensor in self.tensors if is_in_part(part, tensor.name))

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V per token at f16."""
        return 2 * (self.n_embd_k_gqa + self.n_embd_v_gqa)


def layer_bytes(
    arch: str,
    index: int,
    tensors: Sequence[tuple[TensorInfo, str]],
    recurrent: bool,
    memory: LayerMemory,
    *,
    experts: tuple[int, int],
    is_draft: bool,
) -> Layer:
    """Layer `index` with `tensors`, each with the part of its name after the number.

    `experts` is the number of experts that a token uses, and the number of all experts.
    """
    mixer = Role.ATTENTION
    if recurrent and not memory.n_embd_k_gqa:
        mixer = Role.RECURRENT
    elif not any(is_attention_weight(part) for _, part in tensors):
        mixer = Role.FFN
    own = tuple(with_role(info, role_in_layer(part, mixer)) for info, part in tensors)
    by_role = {role: sum(t.n_bytes for t in own if t.role is role) for role in Role}
    total = sum(by_role.values())
    used, n_expert = experts
    idle = by_role[Role.EXPERT] * (n_expert - used) // n_expert if n_expert else 0
    return Layer(
        index=index,
        tensors=own,
        bytes=total,
        attention_bytes=by_role[Role.ATTENTION],
        ffn_bytes=by_role[Role.FFN],
        expert_bytes=by_role[Role.EXPERT],
        recurrent_bytes=by_role[Role.RECURRENT],
        other_bytes=by_role[Role.OTHER],
        active_bytes=0 if is_draft else total - idle,
        n_embd_k_gqa=memory.n_embd_k_gqa,
        n_embd_v_gqa=memory.n_embd_v_gqa,
        has_values=memory.has_values,
        sliding_window=memory.sliding_window,
        recurrent_state_bytes=memory.recurrent_state_bytes,
        head_k_gqa=memory.head_k_gqa,
        head_v_gqa=memory.head_v_gqa,
        is_draft=is_draft,
        loads_shared=not is_draft and not (arch in rules.FULL_LAYERS_LOAD_ROPE and memory.sliding_window),
    )
