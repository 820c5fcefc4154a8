import dataclasses
from typing import Any

import pytest

from tests import zoo
from tests.planner.cases import profile_of
from vram_llm.machine import catalog
from vram_llm.machine.detect import what_if
from vram_llm.machine.published_speeds import FILE, PublishedRow, published_rows
from vram_llm.planner.nearest_published import PublishedCase, model_kind, nearest_published
from vram_llm.units import MIB

_LLAMA_8B = {"kind": "dense", "total_bytes": 4685 * MIB, "active_bytes": 4403 * MIB, "depth": 1024}
_MOE_20B = {"kind": "moe", "total_bytes": 11500 * MIB, "active_bytes": 2300 * MIB, "depth": 1024}


def case(rig: str, **facts: Any) -> PublishedCase:
    devices = what_if([rig]).devices
    name = catalog.find_card(devices[0].name, devices[0].total_bytes).name
    return PublishedCase(card=name, device=devices[0], n_cards=len(devices), **facts)


def row(**changes: Any) -> PublishedRow:
    usual = PublishedRow(
        id="r", source="s", date="2026-05", build="b9000", card="NVIDIA GeForce RTX 4090", n_cards=1,
        generation="Ada", bandwidth_gb_s=1008, backend="cuda", model="Llama 3 8B", quantization="Q4_K_M",
        kind="dense", total_mib=4685, active_mib=4403, depth=0, n_generated=128, tokens_per_s=149.0,
    )  # fmt: skip
    return usual._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "is_near"),
    [
        ({}, True),
        ({"card": "NVIDIA GeForce RTX 4080 SUPER", "bandwidth_gb_s": 736}, False),
        ({"card": "NVIDIA L40", "bandwidth_gb_s": 960}, True),  # the same generation and about as quick
        ({"card": "NVIDIA GeForce RTX 5080", "generation": "Blackwell", "bandwidth_gb_s": 960}, False),
        ({"card": "NVIDIA L40", "generation": ""}, False),
        ({"backend": "vulkan"}, False),
        ({"n_cards": 2}, False),
        ({"kind": "moe"}, False),
        ({"active_mib": 5300}, True),
        ({"active_mib": 5600}, False),
        ({"total_mib": 6600}, False),
        ({"depth": 2048}, True),
        ({"depth": 8192}, False),
    ],
)
def test_near_rows(changes: dict[str, Any], is_near: bool) -> None:
    found = nearest_published(case("RTX 4090", **_LLAMA_8B), [row(**changes)])
    assert (found is not None) is is_near


@pytest.mark.parametrize(
    ("nearer", "farther"),
    [
        ({}, {"card": "NVIDIA L40"}),
        ({"active_mib": 4500}, {"active_mib": 4800}),
        ({"depth": 1024}, {"depth": 0}),
        ({"date": "2025-2026"}, {"date": "2024-05"}),
        ({"active_mib": 4700}, {"date": "2024-05"}),
    ],
)
def test_the_nearest_row(nearer: dict[str, Any], farther: dict[str, Any]) -> None:
    rows = [row(id="farther", **farther), row(id="nearer", **nearer)]
    found = nearest_published(case("RTX 4090", **_LLAMA_8B), rows)
    assert found is not None
    assert found.id == "nearer"


@pytest.mark.parametrize(
    ("rig", "facts", "card", "model"),
    [
        ("RTX 4090", _LLAMA_8B, "NVIDIA GeForce RTX 4090", "Llama 3 8B"),
        ("RTX 3090", _LLAMA_8B, "NVIDIA GeForce RTX 3090", "Llama 3 8B"),
        ("RTX 4090", _MOE_20B, "NVIDIA GeForce RTX 4090", "gpt-oss 20B"),
        ("RX 7900 XTX", _LLAMA_8B, "AMD Radeon RX 7900 XTX", "Llama 2 7B"),
        ("RX 7900 XTX@Vulkan", _LLAMA_8B, "AMD Radeon RX 7900 XTX", "Llama 2 7B"),
    ],
)
def test_cases_of_the_package(rig: str, facts: dict[str, Any], card: str, model: str) -> None:
    found = nearest_published(case(rig, **facts), published_rows())
    assert found is not None
    assert (found.card, found.model) == (card, model)


@pytest.mark.parametrize("rig", ["3x RTX 4090", "GTX 1050 Ti", "24GB@1008GB/s"])
def test_cases_without_a_near_row(rig: str) -> None:
    devices = what_if([rig]).devices
    found = PublishedCase(card="", device=devices[0], n_cards=len(devices), **_LLAMA_8B)  # type: ignore[arg-type]  # facts of several types
    assert nearest_published(found, published_rows()) is None


def test_rows_are_facts_with_a_source() -> None:
    rows = published_rows()
    assert len(rows) > 200
    assert FILE.stat().st_size < 60_000
    assert len({row.id for row in rows}) == len(rows)
    known = {card.name for card in catalog.cards()}
    for each in rows:
        assert each.source
        assert each.date
        assert each.card in known
        assert 0 < each.active_mib <= each.total_mib
        assert each.tokens_per_s > 0


def test_the_kind_of_a_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    llama = profile_of(zoo.llama(), tmp_path_factory.mktemp("dense"))
    moe = profile_of(zoo.qwen3_moe(), tmp_path_factory.mktemp("moe"))
    assert (model_kind(llama), model_kind(moe)) == ("dense", "moe")
    layers = (dataclasses.replace(llama.layers[0], recurrent_state_bytes=1), *llama.layers[1:])
    assert model_kind(dataclasses.replace(llama, layers=layers)) == "hybrid"
