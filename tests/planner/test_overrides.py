"""Patterns of overrides, on every tensor of published models."""

import re

import pytest

from tests.zoo import PUBLISHED, write
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.model.tensors import LayerPart, Role
from vram_llm.planner.overrides import Override, overriding_device


@pytest.fixture(scope="module", params=PUBLISHED)
def of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    folder = tmp_path_factory.mktemp("zoo")
    return profile(read_header(write(PUBLISHED[request.param](), folder / "model.gguf")))


def test_experts_are_the_tensors_that_are_read_for_single_tokens(of: ModelProfile) -> None:
    for layer in of.layers:
        routed = tuple(tensor for tensor in layer.tensors if tensor.role is Role.EXPERT)
        assert layer.tensors_of(LayerPart.EXPERTS) == routed


@pytest.mark.parametrize("part", LayerPart)
def test_a_pattern_matches_its_part_of_its_layers_and_nothing_else(of: ModelProfile, part: LayerPart) -> None:
    chosen = range(1, of.n_layers, 3)
    override = Override.of(part, chosen, "host")
    outside = (*of.input_tensors, *of.output_tensors, *of.shared_tensors, *of.first_layer_tensors)
    assert not any(overriding_device((override,), tensor.name) for tensor in outside)
    for layer in of.layers:
        wanted = layer.tensors_of(part) if layer.index in chosen else ()
        found = tuple(t for t in layer.tensors if overriding_device((override,), t.name) == "host")
        assert found == wanted


def test_the_first_override_that_matches_decides() -> None:
    first, second = (
        Override.of(LayerPart.EXPERTS, (3, 1), "GPU1"),
        Override.of(LayerPart.EXPERTS, range(8), "host"),
    )
    assert first.layers == (1, 3)
    assert overriding_device((first, second), "blk.3.ffn_up_exps.weight") == "GPU1"
    assert overriding_device((first, second), "blk.4.ffn_gate_up_exps.weight") == "host"
    assert overriding_device((first, second), "blk.4.ffn_up_shexp.weight") is None
    assert overriding_device((first, second), "blk.13.ffn_up_exps.weight") is None


@pytest.mark.parametrize(
    ("part", "llamas"),
    [(LayerPart.EXPERTS, r"_(ch|)exps"), (LayerPart.FFN, r"\.")],
    ids=["n_cpu_moe", "n_cpu_ffn"],
)
def test_llama_cpps_patterns_match_the_same_tensors(of: ModelProfile, part: LayerPart, llamas: str) -> None:
    """llm_ffn_block_regex of common/common.h begins anywhere in a name, and ends before a dot."""
    first = r"up|down|gate|gate_up" if part is LayerPart.EXPERTS else "up|down|gate"
    n = of.n_layers // 2
    theirs = [re.compile(rf"blk\.{i}\.ffn_({first}){llamas}") for i in range(n)]
    ours = (Override.of(part, range(n), "host"),)
    layers = (tensor for layer in of.layers for tensor in layer.tensors)
    for tensor in (*of.input_tensors, *of.output_tensors, *of.shared_tensors, *layers):
        matches = any(pattern.search(tensor.name) for pattern in theirs)
        assert matches == (overriding_device(ours, tensor.name) == "host"), tensor.name
