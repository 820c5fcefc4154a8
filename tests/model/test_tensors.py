import pytest

from vram_llm.model.tensors import Place, Role, layer_of, place_of, role_in_layer, role_outside


@pytest.mark.parametrize(
    ("part", "role"),
    [
        ("attn_q.weight", Role.ATTENTION),
        ("attn_norm.weight", Role.ATTENTION),
        ("post_attention_norm.weight", Role.ATTENTION),
        ("attn_kv_a_mqa.weight", Role.ATTENTION),
        ("cross_attn_q.weight", Role.ATTENTION),
        ("indexer.attn_k.weight", Role.ATTENTION),
        ("ffn_down.weight", Role.FFN),
        ("ffn_norm", Role.FFN),
        ("ffn_gate_inp.weight", Role.FFN),
        ("ffn_up_shexp.weight", Role.FFN),
        ("exp_probs_b.bias", Role.FFN),
        ("channel_mix_key.weight", Role.FFN),
        ("ffn_up_exps.weight", Role.EXPERT),
        ("ffn_gate_up_exps.scale", Role.EXPERT),
        ("ffn_down_exps.bias", Role.EXPERT),
        ("ffn_up.17.weight", Role.EXPERT),
        ("ssm_a", Role.RECURRENT),
        ("time_mix_key.weight", Role.RECURRENT),
        ("shortconv.conv.weight", Role.RECURRENT),
        ("layer_output_norm.weight", Role.OTHER),
        ("nextn.eh_proj.weight", Role.OTHER),
    ],
)
def test_roles_in_a_layer(part: str, role: Role) -> None:
    assert role_in_layer(part, Role.ATTENTION) is role


def test_attention_names_serve_what_mixes_tokens_in_the_layer() -> None:
    assert role_in_layer("attn_norm.weight", Role.RECURRENT) is Role.RECURRENT
    assert role_in_layer("ssm_in.weight", Role.ATTENTION) is Role.RECURRENT


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("blk.12.attn_q.weight", (12, "attn_q.weight")),
        ("dec.blk.3.ffn_up.weight", (3, "ffn_up.weight")),
        ("blk.1234567890123.x", (123456789, "x")),
        ("output.weight", None),
        ("blk.x.attn_q.weight", None),
    ],
)
def test_layer_of(name: str, layer: tuple[int, str] | None) -> None:
    assert layer_of(name) == layer


@pytest.mark.parametrize(
    ("arch", "name", "place"),
    [
        ("llama", "token_embd.weight", Place.INPUT),
        ("bert", "position_embd.weight", Place.INPUT),
        ("bert", "token_types.weight", Place.INPUT),
        ("gemma4", "per_layer_token_embd.weight", Place.INPUT),
        ("bloom", "token_embd_norm.weight", Place.FIRST_LAYER),
        ("lfm2", "token_embd_norm.weight", Place.OUTPUT),
        ("gemma4", "per_layer_model_proj.weight", Place.FIRST_LAYER),
        ("llama", "rope_freqs.weight", Place.SHARED),
        ("phi3", "rope_factors_long.weight", Place.SHARED),
        ("llama", "output_norm.weight", Place.OUTPUT),
        ("llama", "output.weight", Place.OUTPUT),
        ("bert", "cls.weight", Place.OUTPUT),
    ],
)
def test_place_of(arch: str, name: str, place: Place) -> None:
    assert place_of(arch, name) is place


def test_roles_outside_layers() -> None:
    assert role_outside("token_embd.weight") is Role.TOKEN_EMBD
    assert role_outside("output.weight") is Role.OUTPUT
    assert role_outside("output.bias") is Role.OTHER
