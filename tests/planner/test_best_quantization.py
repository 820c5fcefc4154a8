"""Which quantisation to take: the rule as a table, and its reasons in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests import zoo
from vram_llm.machine.types import Source
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.planner.best_quantization import (
    Quantization,
    best_quantization,
    bits_per_weight,
    on_cpu,
    why_best,
)
from vram_llm.units import GIB

BITS = {
    "F32": 32.0,
    "BF16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.6,
    "Q4_K": 4.5,
    "IQ4_XS": 4.25,
    "Q3_K": 3.4,
    "Q2_K": 2.6,
}


def on_cards(label: str, tokens_per_s: float) -> Quantization:
    """A quantisation of a 10B model, all of it on the cards."""
    bits = BITS[label]
    return Quantization(
        name=f"{label}.gguf", label=label, is_on_disk=True, bytes=int(bits * GIB), model="m",
        bits_per_weight=bits, method="analytic", fits=True, is_on_cards=True, short_bytes=0, n_layers=40,
        cpu_layers=0, cpu_expert_layers=0, cpu_ffn_layers=0, n_ctx=8192, tokens_per_s=tokens_per_s,
        basis=Source.CATALOG,
    )  # fmt: skip


def spread(label: str, cpu_layers: int, tokens_per_s: float) -> Quantization:
    """One with layers on the host."""
    return replace(on_cards(label, tokens_per_s), is_on_cards=False, cpu_layers=cpu_layers)


def short(label: str, gib: float) -> Quantization:
    """One that does not fit."""
    return replace(
        on_cards(label, 1.0),
        fits=False, is_on_cards=False, short_bytes=int(gib * GIB), n_ctx=None, tokens_per_s=None, basis=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([on_cards("Q8_0", 30), on_cards("Q6_K", 38), on_cards("Q4_K", 55)], "Q8_0"),
        ([on_cards("BF16", 15), on_cards("Q8_0", 30), on_cards("Q4_K", 55)], "Q8_0"),
        ([spread("Q8_0", 9, 6), on_cards("Q6_K", 38), on_cards("Q4_K", 55)], "Q6_K"),
        ([short("Q8_0", 9), on_cards("Q4_K", 55), on_cards("Q2_K", 90)], "Q4_K"),
        ([spread("Q8_0", 9, 7), spread("Q4_K", 4, 11), spread("IQ4_XS", 3, 12), on_cards("Q3_K", 9)], "Q4_K"),
        ([spread("Q8_0", 9, 7), spread("Q4_K", 4, 9), spread("IQ4_XS", 3, 12), on_cards("Q3_K", 9)],
         "IQ4_XS"),
        ([spread("Q4_K", 30, 2), on_cards("Q3_K", 40), on_cards("Q2_K", 60)], "Q3_K"),
        ([spread("Q4_K", 30, 2), spread("Q3_K", 20, 3), spread("Q2_K", 5, 7)], "Q2_K"),
        ([spread("Q4_K", 30, 2), spread("Q3_K", 20, 3), spread("Q2_K", 15, 4)], "Q4_K"),
        ([short("Q4_K", 3), spread("Q3_K", 30, 2), spread("Q2_K", 20, 3)], "Q2_K"),
        ([on_cards("F32", 7), on_cards("BF16", 15), on_cards("Q2_K", 60)], "BF16"),
        ([spread("BF16", 15, 1), short("F32", 15)], "BF16"),
        ([short("BF16", 15), short("Q8_0", 3)], None),
        ([], None),
    ],
)  # fmt: skip
def test_the_rule(rows: list[Quantization], best: str | None) -> None:
    for ordered in (rows, rows[::-1]):
        chosen = best_quantization(ordered)
        assert (chosen and chosen.label) == best


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            [spread("Q8_0", 9, 6), on_cards("Q6_K", 38), on_cards("Q4_K", 55)],
            "It is the largest of 4 to 8 bits that is wholly on the cards; Q8_0 is 84% slower with 9 of 40 "
            "layers on the CPU; Q4_K is 45% faster.",
        ),
        (
            [short("BF16", 3), on_cards("Q8_0", 38), on_cards("Q4_K", 80)],
            "It is the largest of 4 to 8 bits that is wholly on the cards; BF16 is 3.00 GiB short; Q4_K is "
            "2.1 times as fast.",
        ),
        (
            [spread("Q4_K", 4, 11.2), spread("IQ4_XS", 3, 12), on_cards("Q3_K", 11)],
            "It is the largest that is at most 10% slower than the fastest of 4 to 8 bits, none of which is "
            "wholly on the cards; IQ4_XS is 7% faster with 3 of 40 layers on the CPU.",
        ),
        (
            [spread("Q4_K", 30, 2), on_cards("Q3_K", 40)],
            "It is the largest that reaches reading speed: of 4 bits or more Q4_K makes 2.0 tok/s; Q4_K is "
            "95% slower with 30 of 40 layers on the CPU.",
        ),
        (
            [short("Q4_K", 2), on_cards("Q3_K", 40)],
            "It is the largest that fits well, and none of 4 bits or more fits; Q4_K is 2.00 GiB short.",
        ),
        (
            [on_cards("BF16", 10), on_cards("Q3_K", 10.1)],
            "It is the smallest, and none of 4 to 8 bits fits; Q3_K is as fast.",
        ),
    ],
)
def test_the_reason_in_words(rows: list[Quantization], sentence: str) -> None:
    best = best_quantization(rows)
    assert best is not None
    assert why_best(best, rows) == sentence


def test_what_is_on_the_host_in_words() -> None:
    row = spread("Q4_K", 4, 11)
    assert on_cpu(row) == "4 of 40 layers"
    assert on_cpu(replace(row, cpu_layers=40)) == "all layers"
    assert on_cpu(replace(row, cpu_layers=0, cpu_expert_layers=12)) == "experts of 12 layers"
    assert on_cpu(replace(row, cpu_ffn_layers=3)) == "4 of 40 layers and FFN of 3 layers"
    assert on_cpu(replace(row, cpu_layers=0)) == "the output"
    assert on_cpu(on_cards("Q4_K", 1)) == on_cpu(short("Q4_K", 1)) == ""


def test_bits_are_those_of_most_weights(tmp_path: Path) -> None:
    def bits(model: zoo.Model, quantization: str) -> float:
        return bits_per_weight(profile(read_header(zoo.write(model, tmp_path / "m.gguf", quantization))))

    assert bits(zoo.llama(), "Q8_0") == 8.5
    assert bits(zoo.as_q4_k_m(zoo.llama()), "Q4_K") == 4.5
    assert bits(zoo.gpt_oss(), "F16") == 4.25  # its experts are MXFP4 in every file
