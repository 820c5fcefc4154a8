"""Patterns of overrides match the same tensors in llama.cpp as in this program."""

from pathlib import Path

import pytest

from tests.llama.dryrun.test_client import CARDS, a_context
from tests.zoo import PUBLISHED, write
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.types import Host, Machine
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.planner.llama_split import device_of_layers, placement_of
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.override_check import checked_overrides
from vram_llm.planner.override_text import parse_overrides

pytestmark = pytest.mark.process

PATTERNS = (
    r"\.ffn_.*_exps\.", r"blk\.1.\..*exps", r"blk\.(\d)\1\.", r"^blk\.[^0-3]+\.", "attn_(?!k|v|norm).",
    r"blk\.\d{2}\.", r"(gate|up)_exps\.weight$", r"\bblk\W4\d?\b", "[-j-m.]+k.7", "attn_(?:k|v)",
    r"blk\.(?:3|30|47)\.(ch|)", "o{1}u", r"ffn_[\w]*?gate_inp", r"[\]b]lk\.9",
)  # fmt: skip


def test_patterns_move_the_same_tensors(host: Host, tmp_path: Path) -> None:
    header = read_header(write(PUBLISHED["qwen3_30b"](), tmp_path / "model.gguf"))
    model, context, ids = profile(header), a_context(), [card.id for card in CARDS]
    assignment = device_of_layers(model.n_layers, -1, [1.0] * len(ids))
    analytic = AnalyticMeter(model, context, CARDS, host, 0)
    with DryRun() as dry:
        exact = dry.meter(header, context, CARDS, host, 0)
        for pattern in PATTERNS:
            parsed = parse_overrides(f"{pattern}={ids[-1]}")
            overrides = checked_overrides(model, Machine(devices=CARDS, host=host), parsed)
            placement = placement_of(ids, assignment, overrides)
            for measured, estimated in zip(
                exact(placement).devices, analytic(placement).devices, strict=True
            ):
                assert measured.weights_bytes == pytest.approx(estimated.weights_bytes, rel=1e-4), pattern
