"""A safe upper estimate of compute buffers, from tensor shapes alone.

What llama.cpp really reserves comes out of its graph allocator; this bounds it. The terms were read in
src/llama-graph.cpp and ggml/src/ggml-backend.cpp of llama-cpp-python 0.3.36 and checked against its
`no_alloc` answers. For T tokens of a micro-batch, activations are f32, T x 4 bytes an element:

    inputs    masks of n_kv x T x 2 bytes (f16), one over all cells and one over the window's, and indices
    a layer   2 n_embd + the query, and beside them the wider of
                feed-forward: gate, up and their product, 3 x the width active for a token
                attention under MLA or recurrent mixing: every projection's output
    output    n_vocab for each row of logits
    a copy    with pipeline copies: inputs and the layer input, 4 times, and as much for what a card hands on
"""

from dataclasses import dataclass

from vram_llm.machine.types import DeviceKind
from vram_llm.model.profile import Layer, ModelProfile
from vram_llm.model.tensors import Role
from vram_llm.plan.types import Context

PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES
PIPELINED_KINDS = frozenset(DeviceKind) - {DeviceKind.METAL}
"""Back ends with async compute and events (ggml_backend_dev_caps); there is never more than one Metal device."""

_F32 = 4
_INDEX_BYTES = 4 + 4 + 4 * 8  # of a token: its id, its position, its cells for K and V in two caches
_SMALL_INPUTS_BYTES = 4096  # output ids, sequence indices and their padding


@dataclass(frozen=True, slots=True)
class ComputeBound:
    """Bytes of one micro-batch's parts; add them up with `device_bytes` and `host_bytes`."""

    inputs_bytes: int
    embedding_bytes: int  # n_embd a token
    layer_bytes: int  # of the widest layer
    output_bytes: int

    def device_bytes(self, *, pipelined: bool, is_first: bool, has_output: bool) -> int:
        """Upper bound for a device that holds layers or the output."""
        copies = PIPELINE_COPIES if pipelined else 1
        boundaries = 1 if is_first else 2
        moved = copies * (self.inputs_bytes + boundaries * self.embedding_bytes)
        return moved + self.layer_bytes + (self.output_bytes if has_output else 0)

    def host_bytes(self, *, pipelined: bool, has_layers: bool, has_output: bool) -> int:
        """Upper bound for the host, which looks up the embeddings and makes the masks in any case."""
        copies = PIPELINE_COPIES if pipelined else 1
        total = copies * self.inputs_bytes + (1 + copies) * self.embedding_bytes
        if has_layers:
            total += self.layer_bytes
        return total + (self.output_bytes if has_output else 0)


def compute_bound(profile: ModelProfile, context: Context, n_swa_cells: int) -> ComputeBound:
    """The parts for `profile` in `context`; `n_swa_cells` is 0 where no layer has a sliding window."""
    n_tokens = min(context.n_ctx, context.n_ubatch)
    row_bytes = n_tokens * _F32
    widest = max((_layer_width(profile, layer) for layer in profile.layers), default=0)
    state = max((layer.recurrent_state_bytes for layer in profile.layers), default=0)
    return ComputeBound(
        inputs_bytes=n_tokens * (2 * (context.n_ctx + n_swa_cells) + _INDEX_BYTES) + _SMALL_INPUTS_BYTES,
        embedding_bytes=profile.n_embd * row_bytes,
        layer_bytes=widest * row_bytes + 2 * state * context.parallel,
        output_bytes=(profile.vocab_size + profile.n_embd) * context.parallel * _F32,
    )


def _layer_width(profile: ModelProfile, layer: Layer) -> int:
    """Elements a token needs at once in a layer."""
    widths = {role: 0 for role in Role}
    query = 0
    for tensor in layer.tensors:
        if len(tensor.shape) < 2 or "norm" in tensor.name:
            continue
        rows = tensor.shape[1]
        if tensor.role is Role.EXPERT:
            rows *= profile.n_expert_used
        elif len(tensor.shape) == 3:
            rows *= tensor.shape[2]
        if tensor.role in (Role.FFN, Role.EXPERT):
            widths[tensor.role] = max(widths[tensor.role], rows)
        else:
            widths[tensor.role] += rows
            query = max(query, rows) if tensor.role is Role.ATTENTION else query
    feed_forward = 3 * (widths[Role.FFN] + widths[Role.EXPERT])
    return 2 * profile.n_embd + query + max(feed_forward, widths[Role.ATTENTION], 2 * widths[Role.RECURRENT])
