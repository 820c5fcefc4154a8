"""Header-only models for tests: `write(llama(), path)` makes an 8.5 GB file that takes 20 kB of disk."""

from collections.abc import Callable

from tests.zoo.published import (
    as_q4_k_m,
    deepseek2,
    gemma3,
    glm_45_air,
    gpt_oss,
    llama,
    nemotron_49b,
    nemotron_nano,
    qwen3_235b,
    qwen3_moe,
)
from tests.zoo.small import bert, falcon_h1, gemma2, gemma4, lfm2, mamba2, qwen3next
from tests.zoo.writer import (
    Exact,
    Model,
    header_bytes,
    metadata_of,
    metadata_value,
    n_bytes,
    text,
    type_of,
    write,
)

PUBLISHED: dict[str, Callable[[], Model]] = {
    "nemotron_49b": nemotron_49b,
    "llama_8b": llama,
    "gemma3_27b": gemma3,
    "qwen3_30b": qwen3_moe,
    "deepseek_r1": deepseek2,
    "nemotron_nano": nemotron_nano,
}
SMALL: dict[str, Callable[[], Model]] = {
    "mamba2": mamba2,
    "falcon_h1": falcon_h1,
    "lfm2": lfm2,
    "gemma2": gemma2,
    "gemma4": gemma4,
    "qwen3next": qwen3next,
    "bert": bert,
}

__all__ = [
    "PUBLISHED", "SMALL", "Exact", "Model", "as_q4_k_m", "bert", "deepseek2", "falcon_h1", "gemma2", "gemma3",
    "gemma4", "glm_45_air", "gpt_oss", "header_bytes", "lfm2", "llama", "mamba2", "metadata_of",
    "metadata_value", "n_bytes", "nemotron_49b", "nemotron_nano", "qwen3_235b", "qwen3_moe", "qwen3next",
    "text", "type_of", "write",
]  # fmt: skip
