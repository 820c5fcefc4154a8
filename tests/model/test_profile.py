import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import zoo
from vram_llm.errors import CorruptHeader, ModelFileError, VramLLMError
from vram_llm.model.header_reader import read_header
from vram_llm.model.pooling import Pooling
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.model.tensors import Role

MIB = 2**20


def profile_of(model: zoo.Model, folder: Path, common: str = "Q8_0") -> ModelProfile:
    return profile(read_header(zoo.write(model, folder / "m.gguf", common)))


def test_the_pruned_49b_in_two_shards(tmp_path: Path) -> None:
    path = zoo.write(zoo.nemotron_49b(), tmp_path / "nemotron.gguf", shard_bytes=40 * 10**9)
    model = profile(read_header(path.with_name("nemotron-00002-of-00002.gguf")))
    sizes = [layer.bytes / MIB for layer in model.layers]
    assert (round(min(sizes)), round(sum(sizes) / 80, 1), round(max(sizes), 1)) == (70, 605.0, 867.1)
    assert round(model.token_embd_bytes / MIB, 1) == round(model.output_bytes / MIB, 1) == 1064.6
    assert round(model.total_bytes / 1e9, 2) == 52.99
    assert (model.architecture, model.quantization, model.n_layers) == ("deci", "Q8_0", 80)
    assert (model.vocab_size, model.context_length, model.parameters) == (128256, 131072, 49_867_145_280)
    assert [shard.n_bytes for shard in model.shards] == [39_905_911_136, 13_081_095_008]
    without_attention = [layer for layer in model.layers if not layer.kv_bytes_per_token]
    assert len(without_attention) == 31
    assert all(layer.attention_bytes == 0 and layer.ffn_bytes == layer.bytes for layer in without_attention)


@pytest.mark.parametrize("name", [*zoo.PUBLISHED, *zoo.SMALL])
def test_the_parts_are_the_whole(name: str, tmp_path: Path) -> None:
    model = profile_of((zoo.PUBLISHED | zoo.SMALL)[name](), tmp_path)
    for layer in model.layers:
        parts = layer.attention_bytes + layer.ffn_bytes + layer.expert_bytes + layer.recurrent_bytes
        assert layer.bytes == parts + layer.other_bytes == sum(t.n_bytes for t in layer.tensors)
    outside = (
        *model.input_tensors, *model.first_layer_tensors, *model.output_tensors, *model.shared_tensors,
    )  # fmt: skip
    assert model.total_bytes == sum(layer.bytes for layer in model.layers) + sum(t.n_bytes for t in outside)
    assert model.active_bytes_per_token <= model.total_bytes


def test_a_dense_model_reads_all_but_the_embedding(tmp_path: Path) -> None:
    model = profile_of(zoo.llama(2), tmp_path)
    row = 4096 // 32 * 34
    assert model.active_bytes_per_token == model.total_bytes - model.token_embd_bytes + row
    assert model.kv_bytes_per_token == 2 * 2 * (2 * 8 * 128)
    assert not model.tied_output


def test_a_tied_embedding_is_read_whole(tmp_path: Path) -> None:
    model = profile_of(zoo.gemma3(2), tmp_path)
    assert (model.tied_output, model.output_bytes) == (True, 0)
    assert model.active_bytes_per_token == model.total_bytes


def test_of_the_experts_only_those_used_are_read(tmp_path: Path) -> None:
    model = profile_of(zoo.qwen3_moe(1), tmp_path)
    (layer,) = model.layers
    assert layer.expert_bytes == 3 * 128 * 768 * 2048 // 32 * 34
    assert layer.bytes - layer.active_bytes == layer.expert_bytes * 120 // 128
    assert (model.n_expert, model.n_expert_used) == (128, 8)
    router = next(t for t in layer.tensors if "gate_inp" in t.name)
    assert router.role is Role.FFN


def test_a_layer_with_one_part_gives_it_its_norm(tmp_path: Path) -> None:
    mamba, experts, attention = profile_of(zoo.nemotron_nano("ME*"), tmp_path).layers
    assert mamba.recurrent_bytes == mamba.bytes
    assert experts.ffn_bytes + experts.expert_bytes == experts.bytes
    assert attention.attention_bytes == attention.bytes


def test_linear_attention_is_recurrent(tmp_path: Path) -> None:
    layers = profile_of(zoo.qwen3next(), tmp_path).layers
    assert [layer.recurrent_bytes > 0 for layer in layers] == [True, True, True, False, False]
    assert [layer.attention_bytes > 0 for layer in layers] == [False, False, False, True, True]


def test_draft_blocks_count_as_layers_but_are_not_read(tmp_path: Path) -> None:
    model = profile_of(zoo.qwen3next(), tmp_path)
    draft = model.layers[-1]
    assert (model.n_layers, model.n_draft_layers, draft.is_draft) == (5, 1, True)
    assert draft.bytes > 0
    assert (draft.active_bytes, draft.kv_bytes_per_token, draft.loads_shared) == (0, 0, False)


def test_an_encoder_has_no_output_to_tie(tmp_path: Path) -> None:
    model = profile_of(zoo.bert(), tmp_path)
    assert (model.tied_output, model.is_causal, model.has_memory) == (False, False, False)
    assert {t.name for t in model.input_tensors} == {
        "token_embd.weight", "position_embd.weight", "token_types.weight",
    }  # fmt: skip
    assert {t.name for t in model.first_layer_tensors} == {"token_embd_norm.weight", "token_embd_norm.bias"}


@pytest.mark.parametrize(
    ("made", "said", "pooling"),
    [
        (zoo.bert, None, Pooling.MEAN),  # where it says nothing
        (zoo.bert, 0, Pooling.MEAN),
        (zoo.bert, 2, Pooling.CLS),
        (zoo.bert, 4, Pooling.RANK),
        (zoo.qwen3next, None, None),
        (zoo.qwen3next, 3, Pooling.LAST),
    ],
)
def test_what_stands_for_a_text(
    tmp_path: Path, made: Callable[[], zoo.Model], said: int | None, pooling: Pooling | None
) -> None:
    model = made()
    model.keys |= {} if said is None else {"pooling_type": said}
    assert profile_of(model, tmp_path).pooling is pooling


def test_only_full_layers_of_gemma4_load_the_rope_factors(tmp_path: Path) -> None:
    layers = profile_of(zoo.gemma4(), tmp_path).layers
    assert [layer.loads_shared for layer in layers] == [not layer.sliding_window for layer in layers]


def test_the_vocabulary_is_the_token_list(tmp_path: Path) -> None:
    model = zoo.llama(1, 64, 4, 2, 128, 96)
    model.metadata["tokenizer.ggml.tokens"] = ["a"] * 90
    assert profile_of(model, tmp_path).vocab_size == 90
    del model.metadata["tokenizer.ggml.tokens"], model.keys["vocab_size"]
    assert profile_of(model, tmp_path).vocab_size == 96


def test_a_model_without_a_name_has_its_files(tmp_path: Path) -> None:
    model = zoo.llama(1, 64, 4, 2, 128, 96)
    model.metadata["general.name"] = ""
    assert profile_of(model, tmp_path).name == "m"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"block_count": 0}, CorruptHeader, "claims 0 layers"),
        ({"block_count": 2**31}, CorruptHeader, "claims 2,147,483,648 layers"),
        ({"block_count": "two"}, CorruptHeader, r"llama\.block_count is 'two'"),
        ({"block_count": 1}, CorruptHeader, "'blk.1.attn_norm.weight' but only 1 layers"),
        ({"attention.head_count": 0.5}, CorruptHeader, "not a number"),
        ({"attention.head_count_kv": [2]}, CorruptHeader, "has 1 values for 2 layers"),
        ({"attention.head_count_kv": [2, -2]}, CorruptHeader, "is -2"),
        ({"expert_count": 4, "expert_used_count": 5}, CorruptHeader, "5 experts of 4"),
        ({"nextn_predict_layers": 3}, CorruptHeader, "3 draft blocks among 2 layers"),
        ({"block_count": None}, ModelFileError, "not a language model"),
    ],
)
def test_metadata_no_model_can_have(
    change: dict[str, object], error: type[VramLLMError], says: str, tmp_path: Path
) -> None:
    model = zoo.llama(2, 64, 4, 2, 128, 96)
    model.keys = {key: value for key, value in (model.keys | change).items() if value is not None}
    with pytest.raises(error, match=says):
        profile_of(model, tmp_path)


def test_files_that_are_no_language_model(tmp_path: Path) -> None:
    model = zoo.llama(1, 64, 4, 2, 128, 96)
    model.tensors.clear()
    with pytest.raises(ModelFileError, match="a vocabulary without weights"):
        profile_of(model, tmp_path)
    model.metadata["general.architecture"] = 3
    with pytest.raises(ModelFileError, match="does not say what architecture"):
        profile_of(model, tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(
    name=st.sampled_from(["mamba2", "gemma4", "qwen3next", "lfm2"]),
    damage=st.dictionaries(st.integers(0, 50), st.one_of(
        st.booleans(), st.integers(0, 2**32 - 1), st.just("text"), st.floats(width=32),
        st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9),
    ), min_size=1, max_size=3),
)  # fmt: skip
def test_any_metadata_is_an_error_or_a_profile(name: str, damage: dict[int, object], tmp_path: Path) -> None:
    model = zoo.SMALL[name]()
    names = list(model.keys)
    for at, value in damage.items():
        key = names[at % len(names)]
        model.keys[key] = zoo.Exact("Q", value) if type(value) is int else value
    with contextlib.suppress(VramLLMError):
        assert len(profile_of(model, tmp_path).layers) > 0
