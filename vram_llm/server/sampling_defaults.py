"""Sampling that applies where a request leaves fields out."""

from collections.abc import Mapping

from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import SamplingParams
from vram_llm.server.config import ServerConfig

LLAMA_SERVER: Mapping[str, float | int] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""llama-server's own (common/common.h, common_params_sampling), where they are not SamplingParams'."""


def sampling_defaults(info: ModelInfo, config: ServerConfig) -> dict[str, float | int]:
    """Fields of SamplingParams: the server's flags, then the model file's, then llama-server's."""
    return {**LLAMA_SERVER, **dict(info.sampling), **config.sampling}


def default_sampling(info: ModelInfo, config: ServerConfig) -> SamplingParams:
    """The sampling of a request that names none."""
    return SamplingParams(**sampling_defaults(info, config))  # type: ignore[arg-type]  # ints where it has ints
