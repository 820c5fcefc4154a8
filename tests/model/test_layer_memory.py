"""The memory of each layer, by the rules restated here and by llama.cpp itself."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as lib

from tests import zoo
from vram_llm.llama.memory_breakdown import memory_use
from vram_llm.model.header_reader import read_header
from vram_llm.model.layer_memory import ArchKeys, read_attention
from vram_llm.model.profile import ModelProfile, profile

WINDOW = {"attention.sliding_window": 512}


@pytest.mark.parametrize(
    ("arch", "keys", "window", "windowed"),
    [
        ("llama", WINDOW, 0, "........"),  # llama.cpp does not window this one
        ("gemma2", {}, 4096, "w.w.w.w."),
        ("gemma2", WINDOW, 512, "w.w.w.w."),
        ("gemma3", WINDOW, 512, "wwwww.ww"),
        ("gemma3", {**WINDOW, "nextn_predict_layers": 1}, 512, "wwwww.w."),
        ("gemma3", {}, 0, "........"),
        ("gemma3", {**WINDOW, "attention.sliding_window_pattern": 3}, 512, "ww.ww.ww"),
        (
            "gemma3",
            {"attention.sliding_window": 9, "attention.sliding_window_pattern": (1, 0)},
            9,
            "w.......",
        ),
        ("cohere2moe", WINDOW, 512, ".www.www"),
        ("smallthinker", WINDOW, 4096, ".www.www"),
        ("llama4", {}, 8192, "www.www."),
        ("llama4", {"attention.sliding_window": 0}, 0, "........"),
        ("exaone4", WINDOW, 0, "........"),  # only its model of 64 layers
        ("lfm2", WINDOW, 512, "wwwwwwww"),
        (
            "gemma4",
            {"attention.sliding_window": 8, "attention.sliding_window_pattern": (1,) * 8},
            8,
            "wwwwwwww",
        ),
        ("gemma4", {"attention.sliding_window": 8}, 0, "........"),
    ],
)
def test_windows(arch: str, keys: dict[str, int | tuple[int, ...]], window: int, windowed: str) -> None:
    given = ArchKeys(arch, {f"{arch}.{key}": value for key, value in keys.items()})
    found = read_attention(given, 8, given.number("nextn_predict_layers"))
    assert (found.window, "".join("w" if each else "." for each in found.windowed)) == (window, windowed)


def test_head_sizes_default_to_a_share_of_the_embedding() -> None:
    given = ArchKeys(
        "a", {"a.embedding_length": 512, "a.attention.head_count": 8, "a.attention.value_length": 32}
    )
    found = read_attention(given, 2, 0)
    assert (found.head_k, found.head_v, found.n_head_kv) == (64, 32, (8, 8))


N_CTX, N_SEQ, N_UBATCH = 4096, 2, 512


@pytest.fixture(scope="module", autouse=True)
def llama_backend() -> Iterator[None]:
    lib.llama_backend_init()
    yield
    lib.llama_backend_free()


def context_bytes_by_llama(path: Path, swa_full: bool) -> int:
    """The bytes that llama.cpp would allocate for a context with an f16 cache, from the header alone."""
    wanted = lib.llama_model_default_params()
    wanted.n_gpu_layers, wanted.no_alloc, wanted.load_mode = 0, True, 0
    model = lib.llama_model_load_from_file(str(path).encode(), wanted)
    assert model, "llama.cpp refused the model"
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.n_ubatch = N_CTX, N_SEQ, N_UBATCH
    params.kv_unified, params.swa_full, params.flash_attn_type = True, swa_full, 1
    context = lib.llama_init_from_model(model, params)
    assert context, "llama.cpp refused the context"
    uses = memory_use(ctypes.cast(context, ctypes.c_void_p).value or 0)
    held = sum(use.context_bytes for use in uses.values())
    lib.llama_free(context)
    lib.llama_model_free(model)
    return held


def context_bytes(model: ModelProfile, swa_full: bool) -> int:
    windowed = min(N_CTX, -(-(model.sliding_window * N_SEQ + N_UBATCH) // 256) * 256)
    return sum(
        layer.kv_bytes_per_token * (windowed if layer.sliding_window and not swa_full else N_CTX)
        + layer.recurrent_state_bytes * N_SEQ
        for layer in model.layers
    )


@pytest.mark.parametrize("swa_full", [True, False])
@pytest.mark.parametrize("name", [*zoo.PUBLISHED, *zoo.SMALL])
def test_llama_cpp_keeps_as_much(name: str, swa_full: bool, tmp_path: Path) -> None:
    path = zoo.write((zoo.PUBLISHED | zoo.SMALL)[name](), tmp_path / "m.gguf")
    assert context_bytes_by_llama(path, swa_full) == context_bytes(profile(read_header(path)), swa_full)
