"""Contexts that a wish becomes: llama.cpp's own rounding, and the values that it would refuse."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import machine, profile_of
from vram_llm.errors import BadPlan
from vram_llm.machine.types import Device, DeviceKind
from vram_llm.model.pooling import Pooling
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.memory.analytic_meter import AnalyticMeter, swa_cells
from vram_llm.planner.types import BackendSampling, FlashAttention, Workload
from vram_llm.units import GIB

RIG = machine([24 * GIB])


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    """A window of 1,024 tokens in five of six layers."""
    return profile_of(zoo.PUBLISHED["gemma3_27b"](), tmp_path_factory.mktemp("gemma"))


@pytest.mark.parametrize(
    ("wish", "n_ctx", "n_ctx_seq"),
    [
        (Workload(n_ctx=1000), 1024, 1024),
        (Workload(n_ctx=8192, kv_unified=False), 8192, 2048),
        (Workload(n_ctx=1000, parallel=3, kv_unified=False), 1536, 512),  # 341 each, padded to 512
        (Workload(n_ctx=256, parallel=4, kv_unified=False), 1024, 256),
        (Workload(n_ctx=1000, parallel=1, kv_unified=False), 1024, 1024),
    ],
)
def test_what_a_sequence_may_hold(gemma: ModelProfile, wish: Workload, n_ctx: int, n_ctx_seq: int) -> None:
    context = resolve_context(gemma, RIG, wish)
    assert (context.n_ctx, context.n_ctx_seq) == (n_ctx, n_ctx_seq)


@pytest.mark.parametrize(
    ("wish", "cells"),
    [
        (Workload(n_ctx=16384, parallel=4), 4 * 1024 + 512),
        (Workload(n_ctx=16384, parallel=4, swa_full=True), 16384),
        (Workload(n_ctx=16384, parallel=4, kv_unified=False), 4 * (1024 + 512)),
        (Workload(n_ctx=2048, parallel=4, kv_unified=False), 4 * 512),
    ],
)
def test_the_cells_of_layers_with_a_window(gemma: ModelProfile, wish: Workload, cells: int) -> None:
    assert swa_cells(gemma, resolve_context(gemma, RIG, wish)) == cells


def test_an_encoder_takes_many_whole_texts_at_a_time(tmp_path: Path) -> None:
    bert = profile_of(zoo.bert(), tmp_path)
    context = resolve_context(bert, RIG, Workload(n_ctx=100_000, kv_unified=False))
    assert context.pooling is Pooling.MEAN
    assert context.n_ctx == context.n_batch == context.n_ubatch == context.n_outputs == bert.context_length
    assert (context.parallel, context.kv_unified) == (64, True)
    assert resolve_context(bert, RIG, Workload()).n_ctx == min(bert.context_length, 2048)
    assert resolve_context(bert, RIG, Workload(parallel=100, pooling=Pooling.CLS)).parallel == 100
    assert resolve_context(bert, RIG, Workload(pooling=Pooling.CLS)).pooling is Pooling.CLS


def test_ranking_needs_a_classifier(tmp_path: Path) -> None:
    model = zoo.bert()
    with pytest.raises(BadPlan, match="no classifier to rank documents with"):
        resolve_context(profile_of(model, tmp_path), RIG, Workload(pooling=Pooling.RANK))
    model.tensors["cls.output.weight"] = (64, 1)
    context = resolve_context(profile_of(model, tmp_path), RIG, Workload(pooling=Pooling.RANK))
    assert context.pooling is Pooling.RANK


@pytest.mark.parametrize(
    ("pooling", "n_ctx", "n_ubatch"),
    [(Pooling.LAST, 8192, 512), (Pooling.MEAN, 2048, 2048)],
)
def test_what_a_writing_model_embeds_is_whole_where_it_must_be(
    gemma: ModelProfile, pooling: Pooling, n_ctx: int, n_ubatch: int
) -> None:
    context = resolve_context(gemma, RIG, Workload(pooling=pooling))
    assert (context.n_ctx, context.n_ubatch, context.parallel) == (n_ctx, n_ubatch, 4)
    assert context.n_batch == context.n_outputs == n_ubatch
    assert resolve_context(gemma, RIG, Workload()).pooling is None


def test_rows_of_logits_are_one_a_sequence_and_enough_to_draft_for_one(gemma: ModelProfile) -> None:
    assert resolve_context(gemma, RIG, Workload(parallel=12)).n_outputs == 12
    assert resolve_context(gemma, RIG, Workload(parallel=3)).n_outputs == 8
    assert resolve_context(gemma, RIG, Workload(parallel=3, n_outputs_max=3)).n_outputs == 3
    assert resolve_context(gemma, RIG, Workload(parallel=3, n_outputs_max=64)).n_outputs == 64


CUDA, RPC = RIG.devices[0], replace(RIG.devices[0], id="RPC0", kind=DeviceKind.RPC)


@pytest.mark.parametrize(
    ("devices", "wish", "samples"),
    [
        ((CUDA,), Workload(), True),
        ((CUDA, RPC), Workload(), False),
        ((), Workload(), False),
        ((CUDA,), Workload(n_gpu_layers=0), False),
        ((CUDA,), Workload(backend_sampling=BackendSampling.OFF), False),
        ((), Workload(backend_sampling=BackendSampling.ON), True),
        ((CUDA,), Workload(backend_sampling=BackendSampling.ON, pooling=Pooling.MEAN), False),
    ],
)
def test_tokens_are_chosen_on_cards_of_this_computer(
    gemma: ModelProfile, devices: tuple[Device, ...], wish: Workload, samples: bool
) -> None:
    assert resolve_context(gemma, replace(RIG, devices=devices), wish).backend_sampling is samples


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (
            Workload(kv_type_k="q8_0", kv_type_v="q8_0", flash_attn=FlashAttention.OFF),
            "keeps V as q8_0 only with flash attention",
        ),
        (Workload(parallel=8, n_outputs_max=4), "8 sequences that decode need 8 rows of logits"),
    ],
)
def test_what_llama_cpp_would_refuse(gemma: ModelProfile, wish: Workload, said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        make_plan(gemma, RIG, wish)


def test_without_flash_attention_scores_take_memory(gemma: ModelProfile) -> None:
    rig = machine([48 * GIB])
    wishes = (Workload(n_ctx=8192, flash_attn=each) for each in (FlashAttention.AUTO, FlashAttention.OFF))
    plans = [make_plan(gemma, rig, wish) for wish in wishes]
    with_it, without = (plan.estimate.devices[0].compute_bytes for plan in plans)
    assert with_it < gemma.n_head * 512 * 8192 * 4 < without


def test_without_flash_attention_every_layer_has_the_widest_values(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Layers without heads too: V lies transposed, its rows of one length (llama_kv_cache)."""
    of = profile_of(zoo.nemotron_49b(), tmp_path_factory.mktemp("49b"))
    assert {layer.n_embd_v_gqa for layer in of.layers} == {0, 1024}
    rig = machine([80 * GIB])
    context = resolve_context(of, rig, Workload(n_ctx=1024, flash_attn=FlashAttention.OFF))
    meter = AnalyticMeter(of, context, rig.devices, rig.host, 0)
    use = meter.device_estimate("GPU0", 0, of.n_layers, True, n_host=0, pipelined=False)
    keys = sum(2 * layer.n_embd_k_gqa for layer in of.layers)
    assert use.context_bytes == 1024 * (keys + 2 * 1024 * of.n_layers)
