import pytest

from vram_llm.machine.private_text import PrivateNames, private_names

NAMES = PrivateNames(
    homes=("/srv/anna",), users=("anna", "llama"), hosts=("tower.lan", "tower"), secrets=("sk-1234567",)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/anna/models/a.gguf cannot be read", "~ cannot be read"),
        ("no file '/srv/anna/x y'", "no file '~ y'"),
        ("/srv/annabel/x", "/srv/annabel/x"),
        ("/home/bob/.venv/lib/libggml.so: gone", "~: gone"),
        ("/Users/bob/x", "~"),
        ("asked by anna on tower.", "asked by USER on HOST."),
        ("at tower.lan:8080", "at HOST:8080"),
        ("llama.cpp of llama", "llama.cpp of USER"),
        ("CUDA_VISIBLE_DEVICES=GPU-8f3a12cd-11 hides", "CUDA_VISIBLE_DEVICES=GPU-... hides"),
        ("key sk-1234567 is wrong", "key ... is wrong"),
        ("GPU0, RTX 3090", "GPU0, RTX 3090"),
    ],
)
def test_what_is_left_out(text: str, expected: str) -> None:
    assert NAMES.without(text) == expected


def test_every_text_of_a_document() -> None:
    assert NAMES.without_any({"a": ["anna", 1, None, {"b": "tower"}]}) == {
        "a": ["USER", 1, None, {"b": "HOST"}]
    }


def test_the_names_of_this_user() -> None:
    names = private_names({"HOME": "/data/eve", "USER": "root", "HF_TOKEN": "hf_abcdef", "MY_KEY": "none"})
    assert "/data/eve" in names.homes
    assert "eve" in names.users
    assert "root" not in names.users
    assert names.secrets == ("hf_abcdef",)
