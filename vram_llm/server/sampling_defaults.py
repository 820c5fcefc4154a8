"""Sampling for fields that a request leaves out."""

from collections.abc import Mapping

from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import SamplingParams
from vram_llm.server.config import ServerConfig

LLAMA_SERVER: Mapping[str, float | int] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""llama-server's defaults that differ from SamplingParams' (common/common.h, common_params_sampling)."""


def sampling_defaults(info: ModelInfo, config: ServerConfig) -> dict[str, float | int]:
    """SamplingParams fields: the server's flags come before the model file's, these before llama-server's."""
    return {**LLAMA_SERVER, **dict(info.sampling), **config.sampling}


def default_sampling(info: ModelInfo, config: ServerConfig) -> SamplingParams:
    """The sampling of a request without sampling fields."""
    return SamplingParams(**sampling_defaults(info, config))  # type: ignore[arg-type]  # the ints are for int fields
