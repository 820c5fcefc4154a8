"""Work out a model's profile from its header: bytes of each part, memory and bytes read per token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vram_llm.errors import CorruptHeader, ModelFileError
from vram_llm.model import rules
from vram_llm.model.adapter import Adapter, read_adapter
from vram_llm.model.control_vector import control_vector_weights
from vram_llm.model.file_identity import FileIdentity
from vram_llm.model.file_kind import FileKind, draft_head_of, kind_of
from vram_llm.model.gguf import SkippedArray, TensorInfo
from vram_llm.model.header import Header, Shard
from vram_llm.model.layer_bytes import Layer, layer_bytes
from vram_llm.model.layer_memory import (
    MAX_LAYERS,
    ArchKeys,
    Attention,
    LayerMemory,
    layer_memory,
    linear_layers,
    read_attention,
)
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.model.pooling import Pooling, read_pooling
from vram_llm.model.quants import quantization_name, row_bytes
from vram_llm.model.rope_facts import UNSCALED, RopeFacts, read_rope
from vram_llm.model.tensors import (
    LayerPart,
    Place,
    Role,
    Tensor,
    is_recurrent,
    layer_of,
    place_of,
    role_outside,
    with_role,
)
from vram_llm.text.lines import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """The facts of a model that planning needs. Bytes are unpadded; lengths and windows are in tokens.

    `n_layers` is block_count, which counts MTP blocks as llama.cpp's layer split does. Tied embeddings have
    `output_bytes` 0 and `tied_output` true: llama.cpp then stores token_embd a second time, on the output's
    device.
    """

    architecture: str
    name: str
    quantization: str
    parameters: int
    n_layers: int
    n_draft_layers: int
    context_length: int
    vocab_size: int
    n_embd: int
    n_ff: int  # the largest of any layer; so are the head counts
    n_head: int
    n_head_kv: int
    head_k: int
    head_v: int
    window_head_k: int  # of layers with a sliding window
    window_head_v: int
    n_embd_v_gqa_max: int  # without flash attention every layer's V has this width
    n_expert: int
    n_expert_used: int
    sliding_window: int  # 0: no layer has one
    is_causal: bool
    has_memory: bool  # false for encoders and diffusion models, which have no KV cache
    pooling: Pooling | None  # of its embeddings; None: it generates text
    rows_cut: rules.RowsCut
    memory_is_modelled: bool  # false if only llama.cpp can size a context
    layers: tuple[Layer, ...]
    input_tensors: tuple[Tensor, ...]  # stay on the CPU
    first_layer_tensors: tuple[Tensor, ...]  # go with layer 0, but have no layer number
    output_tensors: tuple[Tensor, ...]  # go with the output layer
    shared_tensors: tuple[Tensor, ...]  # one copy on each device holding a layer that loads them
    token_embd_bytes: int
    output_bytes: int  # output.weight alone
    tied_output: bool
    total_bytes: int
    active_bytes_per_token: int
    shards: tuple[Shard, ...]
    draft_head: str | None = None  # the kind of a head in a file of its own, which is no model
    can_map: bool = True  # false where llama.cpp aborts if weights on the host are mapped from the file
    rope: RopeFacts = UNSCALED
    overrides: tuple[MetadataOverride, ...] = ()  # of the file's metadata
    adapters: tuple[Adapter, ...] = ()  # LoRA adapters that the model runs with
    control_vector: Adapter | None = None  # a vector for each layer, the sum of all files
    control_vector_bytes: tuple[int, ...] = ()  # of the tensors in each file

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V per token at f16, over all layers."""
        return sum(layer.kv_bytes_per_token for layer in self.layers)

    @property
    def added_weights(self) -> tuple[Adapter, ...]:
        """Weights that llama.cpp puts on the devices of the layers that they change."""
        return self.adapters if self.control_vector is None else (*self.adapters, self.control_vector)

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """The model's files on this computer as they were when they were read."""
        return tuple(shard.identity for shard in self.shards if shard.identity is not None)

    @property
    def can_rewind(self) -> bool:
        """Whether a sequence's last tokens can be taken back. A recurrent state cannot drop them."""
        return not any(layer.recurrent_state_bytes for layer in self.layers)

    def layers_with(self, part: LayerPart) -> tuple[int, ...]:
        """Numbers of the layers that have `part`, without MTP blocks."""
        return tuple(layer.index for layer in self.layers if layer.tensors_of(part) and not layer.is_draft)


TENSOR_ALIGNMENT = 32  # bytes: ggml-impl.h


def profile(header: Header) -> ModelProfile:
    """The profile of a language model. Raises ModelFileError (the file holds none) or CorruptHeader."""
    keys, n_layers, n_draft = _identify(header)
    in_layers, outside = _sort_tensors(header, keys.arch, n_layers)
    attention = read_attention(keys, n_layers, n_draft)
    recurrent, memory = _memory(keys, attention, n_draft, in_layers)
    n_expert, n_used = _experts(header, keys, n_layers)
    layers = tuple(
        layer_bytes(
            keys.arch, i, in_layers[i], recurrent[i], memory[i],
            experts=(n_used[i], n_expert), is_draft=i >= n_layers - n_draft,
        )
        for i in range(n_layers)
    )  # fmt: skip
    token_embd = next((t for t in outside[Place.INPUT] if t.role is Role.TOKEN_EMBD), None)
    output = next((t for t in outside[Place.OUTPUT] if t.role is Role.OUTPUT), None)
    tied = output is None and token_embd is not None and keys.arch not in rules.NEVER_TIED
    return ModelProfile(
        architecture=keys.arch,
        name=_name(header),
        quantization=_quantization(header),
        parameters=sum(tensor.n_elements for tensor in header.tensors),
        n_layers=n_layers,
        n_draft_layers=n_draft,
        context_length=keys.number("context_length"),
        vocab_size=_vocab_size(keys, token_embd),
        n_embd=keys.number("embedding_length"),
        n_ff=max(keys.per_layer("feed_forward_length", n_layers)),
        n_head=max(attention.n_head),
        n_head_kv=max(attention.n_head_kv),
        head_k=attention.head_k,
        head_v=attention.head_v,
        window_head_k=attention.window_head_k,
        window_head_v=attention.window_head_v,
        n_embd_v_gqa_max=max(attention.v_width(i) for i in range(n_layers)),
        n_expert=n_expert,
        n_expert_used=max(n_used),
        sliding_window=attention.window,
        is_causal=keys.raw("attention.causal") is not False,
        has_memory=keys.arch not in rules.NO_MEMORY,
        pooling=read_pooling(keys),
        rows_cut=rules.ROWS_CUT.get(keys.arch, rules.RowsCut.IN_LAST_LAYER),
        memory_is_modelled=keys.arch not in rules.UNMODELLED,
        layers=layers,
        input_tensors=outside[Place.INPUT],
        first_layer_tensors=outside[Place.FIRST_LAYER],
        output_tensors=outside[Place.OUTPUT],
        shared_tensors=outside[Place.SHARED],
        token_embd_bytes=token_embd.n_bytes if token_embd else 0,
        output_bytes=output.n_bytes if output else 0,
        tied_output=tied,
        total_bytes=sum(tensor.n_bytes for tensor in header.tensors),
        active_bytes_per_token=_active_bytes(layers, outside, tied),
        shards=header.shards,
        draft_head=draft_head_of(header),
        can_map=_can_map(header),
        rope=read_rope(keys),
        overrides=header.overrides,
    )


def _name(header: Header) -> str:
    """The model's own name, else its file's."""
    title = header.metadata.get("general.name")
    return printable(title) if isinstance(title, str) and title else header.path.stem


def _experts(header: Header, keys: ArchKeys, n_layers: int) -> tuple[int, tuple[int, ...]]:
    """How many experts a layer has, and how many of them each layer uses. Raises CorruptHeader."""
    n_expert, n_used = keys.number("expert_count"), keys.per_layer("expert_used_count", n_layers)
    if n_expert and max(n_used) > n_expert:
        raise CorruptHeader(f"{header.path.name} uses {max(n_used)} experts of {n_expert}")
    return n_expert, n_used


def _quantization(header: Header) -> str:
    """By the file's own type where it gives one, else by the type of most weights."""
    elements: dict[str, int] = {}
    for tensor in header.tensors:
        elements[tensor.type.name] = elements.get(tensor.type.name, 0) + tensor.n_elements
    file_type = header.metadata.get("general.file_type")
    return quantization_name(file_type if isinstance(file_type, int) else None, elements)


def _can_map(header: Header) -> bool:
    """Whether all weights lie where a mapped buffer may begin (ggml_backend_cpu_buffer_from_ptr)."""
    offsets = (*(shard.data_offset for shard in header.shards), *(tensor.offset for tensor in header.tensors))
    return all(offset % TENSOR_ALIGNMENT == 0 for offset in offsets)


def with_adapters(base: ModelProfile, headers: Iterable[Header]) -> ModelProfile:
    """`base` with LoRA adapters. Raises ModelFileError if an adapter is for another model."""
    outside = (base.input_tensors, base.first_layer_tensors, base.output_tensors, base.shared_tensors)
    names = [
        tensor.name for tensors in (*outside, *(layer.tensors for layer in base.layers)) for tensor in tensors
    ]
    adapters = (read_adapter(header, base.architecture, names, base.n_layers) for header in headers)
    return replace(base, adapters=tuple(adapters))


def with_control_vectors(base: ModelProfile, headers: Sequence[Header]) -> ModelProfile:
    """`base` with control vectors. Raises ModelFileError if one is for another model."""
    if not headers:
        return base
    weights = control_vector_weights(headers, base.n_embd, base.n_layers, base.n_draft_layers)
    n_bytes = tuple(sum(tensor.n_bytes for tensor in header.tensors) for header in headers)
    return replace(base, control_vector=weights, control_vector_bytes=n_bytes)


def _identify(header: Header) -> tuple[ArchKeys, int, int]:
    """The architecture's metadata, the number of layers, and how many of them are draft blocks."""
    arch, where = header.metadata.get("general.architecture"), header.path.name
    if not isinstance(arch, str) or not arch:
        raise ModelFileError(f"{where} does not say what architecture it is; it is not a language model")
    if (kind := kind_of(header)) is not FileKind.MODEL:
        raise ModelFileError(f"{where} is {kind.value}")
    keys = ArchKeys(arch, header.metadata)
    if keys.raw("block_count") is None:
        raise ModelFileError(
            f"{where} is of architecture {arch!r} and has no layers; it is not a language model"
        )
    n_layers = keys.number("block_count")
    if not 0 < n_layers <= MAX_LAYERS:
        raise CorruptHeader(f"{where} claims {n_layers:,} layers; llama.cpp takes 1 to {MAX_LAYERS}")
    n_draft = keys.number("nextn_predict_layers")
    if n_draft > n_layers:
        raise CorruptHeader(f"{where} claims {n_draft} draft blocks among {n_layers} layers")
    return keys, n_layers, n_draft


def _sort_tensors(
    header: Header, arch: str, n_layers: int
) -> tuple[list[list[tuple[TensorInfo, str]]], dict[Place, tuple[Tensor, ...]]]:
    """Each layer's tensors with the part of the name after the number, and the others by place."""
    in_layers: list[list[tuple[TensorInfo, str]]] = [[] for _ in range(n_layers)]
    outside: dict[Place, list[Tensor]] = {place: [] for place in Place}
    for info in header.tensors:
        if (place := layer_of(info.name)) is None:
            outside[place_of(arch, info.name)].append(with_role(info, role_outside(info.name)))
            continue
        index, part = place
        if index >= n_layers:
            raise CorruptHeader(f"{header.path.name} has a tensor {info.name!r} but only {n_layers} layers")
        in_layers[index].append((info, part))
    return in_layers, {place: tuple(tensors) for place, tensors in outside.items()}


def _memory(
    keys: ArchKeys,
    attention: Attention,
    n_draft: int,
    in_layers: Sequence[Sequence[tuple[TensorInfo, str]]],
) -> tuple[tuple[bool, ...], tuple[LayerMemory, ...]]:
    """Which layers are recurrent, and each layer's memory."""
    n_layers = len(in_layers)
    linear = linear_layers(keys, n_layers, n_draft)
    recurrent = linear or tuple(any(is_recurrent(part) for _, part in tensors) for tensors in in_layers)

    def attends(i: int) -> bool:
        return linear is None and any(part.startswith("attn_output.") for _, part in in_layers[i])

    return recurrent, layer_memory(keys, attention, n_draft, recurrent, attends)


def _active_bytes(layers: Iterable[Layer], outside: dict[Place, tuple[Tensor, ...]], tied: bool) -> int:
    """Bytes of weights read for one token. Of an input tensor it is one row, unless it is the output too."""
    whole = (t.n_bytes for place in Place if place is not Place.INPUT for t in outside[place])
    rows = (
        t.n_bytes if tied and t.role is Role.TOKEN_EMBD else row_bytes(t.type, t.shape[0])
        for t in outside[Place.INPUT]
    )
    return sum(layer.active_bytes for layer in layers) + sum(whole) + sum(rows)


def _vocab_size(keys: ArchKeys, token_embd: Tensor | None) -> int:
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, SkippedArray):
        return tokens.count
    rows = token_embd.shape[1] if token_embd and len(token_embd.shape) > 1 else 0
    return keys.number("vocab_size", rows)
