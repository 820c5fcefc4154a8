import pytest

from vram_llm.model.name_match import meant, nearest, short_names

LLAMA = "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"
LLAMA_Q8 = "hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q8_0.gguf"
GEMMA_27 = "hf:bartowski/google_gemma-3-27b-it-GGUF/google_gemma-3-27b-it-Q4_K_M.gguf"
GEMMA_4 = "llama.cpp:ggml-org_gemma-3-4b-it-GGUF_gemma-3-4b-it-Q4_K_M.gguf"
QWEN_30 = "lmstudio:lmstudio-community/Qwen3-30B-A3B-GGUF/Qwen3-30B-A3B-Q4_K_M.gguf"
QWEN_8 = "hf:unsloth/Qwen3-8B-GGUF/Qwen3-8B-Q8_0.gguf"
SMALL, LATEST, OSS = "ollama:llama3.2:3b", "ollama:llama3.2:latest", "ollama:gpt-oss:120b"
NAMES = [LLAMA, LLAMA_Q8, GEMMA_27, GEMMA_4, QWEN_30, QWEN_8, SMALL, LATEST, OSS]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (LLAMA, [LLAMA]),
        (LLAMA.upper(), [LLAMA]),
        ("gemma", [GEMMA_27, GEMMA_4]),
        ("gemma3:27b", [GEMMA_27]),
        ("Gemma 27B", [GEMMA_27]),
        ("gemma-3-4b-it", [GEMMA_4]),
        ("llama3.1:8b", [LLAMA, LLAMA_Q8]),
        ("llama3.1:8b-instruct-q8_0", [LLAMA_Q8]),
        ("llama3.1 q4_k_m", [LLAMA]),
        ("8b", [LLAMA, LLAMA_Q8, QWEN_8]),  # and not 28B, 18B
        ("llama", [LLAMA, LLAMA_Q8, SMALL, LATEST]),  # llama.cpp: and ollama: are no part of a model's name
        ("llama3.2", [LATEST]),
        ("llama3.2:3b", [SMALL]),
        ("ollama:llama3.2", [LATEST]),
        ("ollama:gpt", [OSS]),
        ("gpt-oss:latest", [OSS]),
        ("q4", [LLAMA, GEMMA_27, GEMMA_4, QWEN_30]),  # and not "qwen"
        ("qwen3:30b", [QWEN_30]),
        ("30b-a3b", [QWEN_30]),
        ("Qwen3-8B-Q8_0.gguf", [QWEN_8]),
        ("qwen3-8b-q8_0", [QWEN_8]),
        ("qwen3.gguf", []),
        ("mistral", []),
        ("", []),
        (":", []),
        ("hf:", []),
    ],
)
def test_names_that_a_part_may_stand_for(text: str, names: list[str]) -> None:
    assert meant(text, NAMES) == names


@pytest.mark.parametrize(
    ("text", "name"),
    [("gema", GEMMA_27), ("lama3.2:3b", SMALL), ("qwem3-8b", QWEN_8), ("gpt-os:20b", OSS)],
)
def test_the_nearest_names(text: str, name: str) -> None:
    near = nearest(text, NAMES)
    assert near[0] == name
    assert len(near) <= 3


@pytest.mark.parametrize("text", ["", "%%%", "zzzzzz"])
def test_nothing_is_near_to_what_is_no_name(text: str) -> None:
    assert nearest(text, NAMES) == []


def test_short_names_stand_for_one_model_each() -> None:
    copy = "lmstudio:me/qwen/Qwen3-8B-Q8_0.gguf"
    short = short_names([*NAMES, copy])
    assert short[GEMMA_27] == "google_gemma-3-27b-it-Q4_K_M"
    assert short[LATEST] == "llama3.2"
    assert short[SMALL] == "llama3.2:3b"
    assert short_names(["lmstudio:a/b/m-Q8_0-00001-of-00003.gguf"]).popitem()[1] == "m-Q8_0"
    assert (short[QWEN_8], short[copy]) == (QWEN_8, copy)
    for name, form in short.items():
        assert meant(form, [*NAMES, copy]) == [name]
