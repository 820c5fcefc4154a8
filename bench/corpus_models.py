"""Headers of the models of published measurements, written by the shape builders of another folder.

The folder holds zoo_extra.py: `MODELS`, a table of builders by name, `build(zoo_id, folder)`, which writes a
header-only file for "MODEL:QUANTISATION", and the builders themselves. Rows of measurements name either a
zoo id, or a model and a quantisation as people write them. Shapes that the folder lacks are added here, from
the models' published config.json.
"""

import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from gguf.constants import GGMLQuantizationType, LlamaFileType

from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile

_NAMES = {  # the start of "name:size" in lower case, without spaces: the builder; the first match counts
    "llama2:7b": "llama2-7b", "llama2:13b": "llama2-13b",
    "llama3:8b": "llama3-8b", "llama3.1:8b": "llama3-8b",
    "llama3:70b": "llama3-70b", "llama3.1:70b": "llama3-70b", "llama3.3:70b": "llama3-70b",
    "llama3.2:3b": "llama3.2-3b", "midnightmiqu:70b": "miqu-70b", "miqu:70b": "miqu-70b",
    "tinyllama": "tinyllama-1.1b", "mistral:7b": "mistral-7b", "mistralnemo": "mistral-nemo-12b",
    "mixtral:8x7b": "mixtral-8x7b", "phi4mini": "phi4-mini", "phi-4mini": "phi4-mini", "phi-4": "phi4-14b",
    "phi4": "phi4-14b", "qwen2.5:7b": "qwen2.5-7b", "qwen2.5coder:7b": "qwen2.5-7b",
    "qwen2.5:14b": "qwen2.5-14b", "qwen2.5coder:14b": "qwen2.5-14b", "qwen2.5:32b": "qwen2.5-32b",
    "qwen2.5coder:32b": "qwen2.5-32b", "qwen3:30ba3b": "qwen3-30b-a3b", "qwen3coder:30ba3b": "qwen3-30b-a3b",
    "qwen3:235b": "qwen3-235b", "qwen3:14b": "qwen3-14b", "qwen3:8b": "qwen3-8b", "qwen3:4b": "qwen3-4b",
    "qwen3:32b": "qwen3-32b", "qwen3-next:": "qwen3-next-80b", "qwen3next": "qwen3-next-80b",
    "qwen3codernext": "qwen3-next-80b", "qwen3.5:35b": "qwen3.6-35b", "qwen3.6:35b": "qwen3.6-35b",
    "qwen3.5:27b": "qwen3.6-27b", "qwen3.6:27b": "qwen3.6-27b", "qwen3.8:27b": "qwen3.6-27b",
    "qwen3.8flash": "qwen3.8-flash-next", "gpt-oss:20b": "gpt-oss-20b", "gpt-oss:120b": "gpt-oss-120b",
    "deepseekcoderv2lite": "deepseek2-16b", "deepseekv2lite": "deepseek2-16b", "deepseekr1": "deepseek-r1",
    "deepseekv3": "deepseek-r1", "gemma3:4b": "gemma3-4b", "gemma3:12b": "gemma3-12b",
    "gemma3:27b": "gemma3-27b", "nemotron3nano": "nemotron-nano", "glm-4.5air": "glm-4.5-air",
}  # fmt: skip
_SAME_SIZE = {  # quantisations that the builders lack: the type of most weights
    "IQ4_XS": "IQ4_XS", "IQ4_NL": "IQ4_NL", "IQ3_S": "IQ3_S", "IQ3_XXS": "IQ3_XXS", "IQ2_XXS": "IQ2_XXS",
    "IQ2_XS": "IQ2_XS", "IQ2_S": "IQ2_S", "IQ1_S": "IQ1_S", "IQ1_M": "IQ1_M", "Q4_1": "Q4_1", "Q5_0": "Q5_0",
    "Q5_1": "Q5_1", "Q2_K": "Q2_K", "Q3_K": "Q3_K",
}  # fmt: skip
_ALIASES = {
    "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K", "Q5_K_XL": "Q5_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K",
    "Q2_K_S": "Q2_K",
    "Q2_K_M": "Q2_K", "Q2_K_XL": "Q2_K", "Q3_K_XL": "Q3_K", "IQ2_M": "IQ2_S", "IQ3_M": "IQ3_S",
    "MXFP4_MOE": "MXFP4", "Q6_K_XL": "Q6_K", "FP16": "F16",
}  # fmt: skip


class Shapes:
    """The builders of a folder, and the headers that they have written."""

    def __init__(self, builders: Path, written: Path) -> None:
        """`builders`: the folder of zoo_extra.py; headers are written to `written`."""
        if not (builders / "zoo_extra.py").is_file():
            raise SystemExit(f"{builders} holds no zoo_extra.py; name the folder of builders with --zoo")
        sys.path.insert(0, str(builders))
        self._zoo = import_module("zoo_extra")
        self._written = written
        _add_shapes(self._zoo)
        _add_types(self._zoo)

    def zoo_id(self, row: dict[str, str]) -> str | None:
        """The id of a row's model and quantisation; None if the model's shape is unknown."""
        if row["zoo"]:
            return row["zoo"]
        words = row["model"].lower().split()
        at = next((i for i, word in enumerate(words) if re.fullmatch(r"[\dx.]+b", word)), len(words))
        name = f"{''.join(words[:at])}:{''.join(words[at:])}"
        builder = next((_NAMES[key] for key in _NAMES if name.startswith(key)), None)
        if builder is None or builder not in self._zoo.MODELS:
            return None
        plain = row["quant"].upper().removeprefix("UD-").replace("-", "_")
        return f"{builder}:{_ALIASES.get(plain, plain)}"

    def profile(self, zoo_id: str) -> ModelProfile:
        """The profile of a model."""
        return _profile(self._zoo, zoo_id, self._written)


@cache
def _profile(zoo: ModuleType, zoo_id: str, folder: Path) -> ModelProfile:
    return profile(read_header(str(zoo.build(zoo_id, folder))))


def _add_types(zoo: ModuleType) -> None:
    """Quantisations of one type throughout, with an output in Q6_K; real mixes differ by a few percent."""
    for name, type_name in _SAME_SIZE.items():
        if name not in zoo._PLAIN:
            zoo._PLAIN[name] = GGMLQuantizationType[type_name]
            zoo.z._FTYPE[name] = getattr(LlamaFileType, f"MOSTLY_{name}", LlamaFileType.MOSTLY_Q4_K_M)


def _add_shapes(zoo: ModuleType) -> None:
    z = zoo.z

    def llama(name: str, *sizes: int, theta: float = 1e4, **more: Any) -> Any:
        d, layers, heads, kv, ff, vocab, ctx = sizes
        return z.llama(
            name, d=d, layers=layers, heads=heads, kv=kv, ff=ff, vocab=vocab, ctx=ctx, theta=theta, **more
        )

    def qwen3(name: str, d: int, layers: int, heads: int, kv: int, ff: int, **more: Any) -> Any:
        return z.qwen3(
            name, d=d, layers=layers, heads=heads, kv=kv, hd=128, ff=ff, vocab=151936, ctx=40960, **more
        )

    def flash_next() -> Any:
        # without its hyper-connections, and without its n-gram table, of which a token reads a few rows
        model = zoo.gdn(
            "qwen3next", "Qwen3.8 Flash Next", d=2560, layers=48, heads=24, kv=2, hd=256, ff=0, vocab=248320,
            k_heads=16, v_heads=48, experts=512, used=10, ff_exp=640, ff_shexp=640, fused_ba=True,
        )  # fmt: skip
        model.force = {r"attn_(?!.*norm)|ssm_out|shexp": GGMLQuantizationType.Q8_0}
        return model

    def glm_air() -> Any:  # as its nearest relative: one dense layer of 46 more or less is 1 % of its bytes
        return z.qwen3(
            "GLM 4.5 Air", d=4096, layers=46, heads=96, kv=8, hd=128, ff=10944, vocab=151552, ctx=131072,
            experts=128, used=8, ff_exp=1408,
        )  # fmt: skip

    added = {
        "llama2-13b": lambda: llama("LLaMA 2 13B", 5120, 40, 40, 40, 13824, 32000, 4096),
        "miqu-70b": lambda: llama("Miqu 70B", 8192, 80, 64, 8, 28672, 32000, 32768, theta=1e6),
        "tinyllama-1.1b": lambda: llama("TinyLlama 1.1B", 2048, 22, 32, 4, 5632, 32000, 2048),
        "mistral-7b": lambda: llama("Mistral 7B", 4096, 32, 32, 8, 14336, 32768, 32768, theta=1e6),
        "mistral-nemo-12b": lambda: llama(
            "Mistral Nemo", 5120, 40, 32, 8, 14336, 131072, 131072, head_dim=128
        ),
        "mixtral-8x7b": lambda: llama(
            "Mixtral 8x7B", 4096, 32, 32, 8, 14336, 32000, 32768, experts=8, used=2
        ),
        "phi4-14b": lambda: zoo.phi3(
            "Phi 4", d=5120, layers=40, heads=40, kv=10, ff=17920, vocab=100352, ctx=16384
        ),
        "qwen2.5-32b": lambda: zoo.qwen2("Qwen2.5 32B", d=5120, layers=64, heads=40, kv=8, ff=27648),
        "qwen3-4b": lambda: qwen3("Qwen3 4B", 2560, 36, 32, 8, 9728),
        "qwen3-14b": lambda: qwen3("Qwen3 14B", 5120, 40, 40, 8, 17408),
        "qwen3-235b": lambda: qwen3(
            "Qwen3 235B A22B", 4096, 94, 64, 4, 12288, experts=128, used=8, ff_exp=1536
        ),
        "gemma3-12b": lambda: z.gemma3(
            "gemma 3 12b it", d=3840, layers=48, heads=16, kv=8, hd=256, ff=15360, vocab=262208, swa=1024
        ),
        "glm-4.5-air": glm_air,
        "qwen3.8-flash-next": flash_next,
    }
    for name, builder in added.items():
        zoo.MODELS.setdefault(name, (builder, ""))
