"""The model in PyTorch: llama.cpp's "llama" architecture, its tensors under GGUF's names."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of the model. `context` is the context length in the file."""

    vocab: int = 2048
    context: int = 4096
    embedding: int = 160
    layers: int = 5
    heads: int = 3
    kv_heads: int = 1
    head: int = 64
    feed_forward: int = 448
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5


class Layer(nn.Module):
    """Attention and a gated feed-forward part, each after a norm and added to its input."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        width, queries, keys = shape.embedding, shape.heads * shape.head, shape.kv_heads * shape.head
        self.shape, self.dropout = shape, dropout
        self.attn_norm = nn.RMSNorm(width, shape.norm_epsilon)
        self.attn_q = nn.Linear(width, queries, bias=False)
        self.attn_k = nn.Linear(width, keys, bias=False)
        self.attn_v = nn.Linear(width, keys, bias=False)
        self.attn_output = nn.Linear(queries, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, shape.norm_epsilon)
        self.ffn_gate = nn.Linear(width, shape.feed_forward, bias=False)
        self.ffn_up = nn.Linear(width, shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, width, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """`x` is (batch, tokens, embedding); `turn` is the result of `rotation`."""
        x = x + self._attend(self.attn_norm(x), turn)
        y = self.ffn_norm(x)
        y = self.ffn_down(functional.silu(self.ffn_gate(y)) * self.ffn_up(y))
        return x + functional.dropout(y, self.dropout, self.training)

    def _attend(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (-1, self.shape.head)).transpose(1, 2)

        q, k, v = heads(self.attn_q(x)), heads(self.attn_k(x)), heads(self.attn_v(x))
        mixed = functional.scaled_dot_product_attention(
            rotate(q, turn), rotate(k, turn), v, is_causal=True, enable_gqa=True
        )
        y: Tensor = self.attn_output(mixed.transpose(1, 2).flatten(-2))
        return y


class Llama(nn.Module):
    """Token ids in, states out; `logits` scores them."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.token_embd = nn.Embedding(shape.vocab, shape.embedding)
        self.blk = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.embedding, shape.norm_epsilon)
        self.output = nn.Linear(shape.embedding, shape.vocab, bias=False)
        self.apply(self._start)

    def _start(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
        if module is self.output:
            nn.init.zeros_(self.output.weight)
        for layer in self.blk if module is self else ():
            nn.init.zeros_(layer.attn_output.weight)
            nn.init.zeros_(layer.ffn_down.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, tokens) of ids to (batch, tokens, embedding)."""
        turn = rotation(self.shape, ids.shape[1])
        x = functional.dropout(self.token_embd(ids), self.dropout, self.training)
        for layer in self.blk:
            x = layer(x, turn)
        y: Tensor = self.output_norm(x)
        return y

    def logits(self, states: Tensor) -> Tensor:
        """(..., embedding) to (..., vocab)."""
        y: Tensor = self.output(states)
        return y


def rotation(shape: Shape, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles: (tokens, head / 2) each."""
    speeds = shape.rope_base ** (-torch.arange(0, shape.head, 2) / shape.head)
    angles = torch.arange(tokens)[:, None] * speeds
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE as llama.cpp does it for this architecture: neighbours are a pair (LLAMA_ROPE_TYPE_NORM)."""
    cos, sin = turn
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
