"""llama.cpp's rules that depend on the architecture and not on the file. The rest comes from metadata.

Each table names the function of llama.cpp (in llama-cpp-python 0.3.36) that it restates; the keys are
`general.architecture` values, not models.
"""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class WindowRule:
    """Which layers have a sliding window if the file does not list them (llama_hparams::set_swa_pattern).

    One layer of each `period` has full attention: the last, or the first with `dense_first`. Period 0: none.
    """

    period: int
    dense_first: bool = False
    default_window: int = 0  # tokens, if the file gives no window; 0: no window
    fixed_window: int = 0  # tokens, in place of any non-zero window in the file; 0: the file's window
    only_n_layers: int = 0  # the rule holds for models with this number of layers; 0: for all


# load_arch_hparams of src/models/*.cpp, the calls of load_swa_pattern.
WINDOWS = {
    "afmoe": WindowRule(4),
    "cohere2": WindowRule(4),
    "cohere2moe": WindowRule(4, dense_first=True),
    "exaone-moe": WindowRule(4, default_window=128),
    "exaone4": WindowRule(4, default_window=4096, only_n_layers=64),
    "gemma-embedding": WindowRule(6),
    "gemma2": WindowRule(2, default_window=4096),
    "gemma3": WindowRule(6),
    "gemma3n": WindowRule(5),
    "gpt-oss": WindowRule(2),
    "laguna": WindowRule(4, dense_first=True),
    "lfm2": WindowRule(0),
    "llama4": WindowRule(4, default_window=8192, fixed_window=8192),
    "mellum": WindowRule(4),
    "modern-bert": WindowRule(3, dense_first=True),
    "muse-glimmer": WindowRule(4),
    "olmo2": WindowRule(4),
    "plamo3": WindowRule(8),
    "smallthinker": WindowRule(4, dense_first=True, fixed_window=4096),
}

# load_arch_hparams: the file gives a window, and lists its layers only as an array.
LISTED_WINDOWS = frozenset({"gemma4", "granite_swa", "maple", "mimo2", "spark2-5", "step35"})

# llama_model::create_memory, the cases that create no memory: encoders and diffusion models.
NO_MEMORY = frozenset({
    "bert", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llada", "llada-moe",
    "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1", "wavtokenizer-dec",
})  # fmt: skip

# create_memory and load_arch_hparams: caches or layers that `layer_memory.py` does not model (indexer keys,
# compressed caches, looped layers). Only llama.cpp can size their contexts.
UNMODELLED = frozenset({
    "deepseek32", "deepseek4", "dflash", "dots3note", "eagle3", "gemma4-assistant", "glm-dsa", "glm5-next",
    "graniteswitch", "hy_v4", "kimi-k3", "minimax-m3", "nanbeige", "qwen4exp", "t5",
})  # fmt: skip

# load_arch_tensors makes no second copy of token_embd if there is no output.weight: encoders, and bitnet,
# which multiplies by the embedding in place.
NEVER_TIED = frozenset({
    "bert", "bitnet", "eurobert", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert",
    "nomic-bert-moe",
})  # fmt: skip

# llama_model_gemma3n::load_arch_hparams: this number of first layers store keys and values; the others reuse
# them. For other architectures, `attention.shared_kv_layers` is the number of layers that reuse.
KV_FROM_START = {"gemma3n": 20}

# load_arch_hparams, if the file gives no interval: one layer in this number has full attention, the others
# linear attention.
FULL_ATTENTION_INTERVALS = {"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4}

# create_memory of hybrids whose filter lets draft (MTP) blocks keep keys and values in the main context.
DRAFT_KEEPS_KV = frozenset({"bailingmoe3"})

# build_arch_graph: architectures with a graph for MTP blocks.
MTP_GRAPHS = frozenset({
    "bailingmoe3", "cohere2moe", "deepseek2", "deepseek32", "glm-dsa", "glm4moe", "hy_v3", "mimo2",
    "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next", "step35",
})  # fmt: skip

# Their graphs take a model with several MTP blocks; the others abort (asserts on n_layer_nextn).
SEVERAL_MTP_BLOCKS = frozenset({"hy_v3", "mimo2", "step35"})

# Their graphs of MTP blocks rotate without sections (ggml_rope_ext in graph_mtp): with M-RoPE the first draft
# aborts. No dry run can tell, because the graph itself is made.
MTP_WITHOUT_MROPE = frozenset({"glm4moe"})

# Their graphs abort at embeddings of images if the file has no sections for M-RoPE (glm4.cpp, glm4-moe.cpp).
IMAGES_NEED_MROPE = frozenset({"glm4", "glm4moe"})

# Their caches (llama_kv_cache_dsv4, glm5-next) take tokens back by rules of their own, which the engine does
# not know.
OWN_ROLLBACK = frozenset({"deepseek4", "glm5-next"})

# llm_arch_supports_rs_rollback: recurrent states that can be taken back by some tokens (n_rs_seq).
STATE_ROLLBACK = frozenset({
    "bailingmoe3", "deepseek4", "glm5-next", "kimi-k3", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe",
    "qwen35", "qwen35moe", "qwen4exp",
})  # fmt: skip

# load_arch_tensors: only layers without a window load rope_freqs.
FULL_LAYERS_LOAD_ROPE = frozenset({"gemma4"})

# LLM_TENSOR_OUTPUT_NORM_LFM2 (src/llama-arch.cpp): the output norm has the embedding norm's name.
OUTPUT_NORM_IS_EMBD_NORM = frozenset({"lfm2", "lfm2moe"})


class RowsCut(StrEnum):
    """Where a graph drops the rows of tokens that need no logits."""

    IN_LAST_LAYER = "in the last layer"  # after its attention
    AFTER_LAYERS = "after the layers"
    AFTER_NORM = "after the output's norm"


# build_graph of src/models/*.cpp: the other architectures drop rows in the last layer. These keep every row
# for draft heads (embeddings_nextn_masked), or join several streams first.
ROWS_CUT = dict.fromkeys(
    ("bailingmoe3", "deepseek4", "gemma3n", "gpt-oss", "hy_v3", "kimi-k3", "step35"), RowsCut.AFTER_LAYERS
) | dict.fromkeys(
    ("cohere2moe", "gemma4", "nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next"),
    RowsCut.AFTER_NORM,
)
