"""Pictures of models and plans: their figures, and the files that are drawn."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests import zoo
from tests.cli.running import run
from vram_llm.errors import BadPicture, MissingExtra
from vram_llm.pictures import canvas
from vram_llm.pictures.draw_layers import draw_layers
from vram_llm.pictures.draw_plan import draw_plan
from vram_llm.planner import floor, make_plan
from vram_llm.planner.pictures import PlanPicture, layer_picture, plan_picture
from vram_llm.planner.types import HOST, Plan, Workload
from vram_llm.workflows import detection

RIG = "RTX 3060 12GB + RTX 4060 on 64GiB DDR4-3200 2ch"
WORKLOAD = Workload(n_ctx=16384)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A header of gpt-oss-120b: its experts are on the host."""
    return str(zoo.write(zoo.gpt_oss(), tmp_path_factory.mktemp("pictures") / "gpt-oss-120b.gguf"))


@pytest.fixture(scope="module")
def plan(model: str) -> Plan:
    return make_plan.make_plan(detection.analyze(model), detection.detect(RIG), WORKLOAD)


@pytest.fixture(scope="module")
def figures(model: str, plan: Plan) -> PlanPicture:
    profile, machine = detection.analyze(model), detection.detect(RIG)
    found = floor.memory_floor(profile, machine, WORKLOAD)
    return plan_picture(profile, machine, WORKLOAD, plan, found)


def test_bars_of_cards_are_the_plan(plan: Plan, figures: PlanPicture) -> None:
    *cards, host = figures.cards
    assert [card.name for card in cards] == ["RTX 3060 12GB", "RTX 4060"]
    for card, use in zip(cards, plan.estimate.devices, strict=True):
        assert sum(card.bytes_by_kind.values()) == use.total_bytes
    assert sum(host.bytes_by_kind.values()) == plan.estimate.host.total_bytes
    for card in figures.cards:
        assert sum(card.bytes_by_kind.values()) + card.reserve_bytes + card.others_bytes <= card.total_bytes


def test_curves_and_limits(plan: Plan, figures: PlanPicture) -> None:
    assert figures.curves.keys() == {"f16", "q8_0", "q4_0"}
    for points in zip(*figures.curves.values(), strict=True):
        sizes = [n_bytes for _, n_bytes in points]
        assert sizes == sorted(sizes, reverse=True)
    budgets = [device.budget_bytes(device.reserve_bytes) for device in plan.devices]
    assert [n_bytes for _, n_bytes in figures.limits] == [budgets[0], sum(budgets)]
    assert [name for name, _ in figures.limits] == ["RTX 3060 12GB", "+ RTX 4060"]
    one, four = figures.speeds
    rates = [rate for _, rate in one.points]
    assert rates == sorted(rates, reverse=True)
    assert (one.points[-1][0], four.points[-1][0]) == (plan.context.n_ctx, plan.context.n_ctx // 4)


def test_layers_are_all_bytes_of_the_model(model: str, plan: Plan) -> None:
    profile = detection.analyze(model)
    for picture in (layer_picture(profile), layer_picture(profile, plan)):
        total = sum(part.n_bytes for bar in picture.bars for part in bar.parts)
        layers = sum(layer.bytes for layer in profile.layers)
        assert total == layers + profile.token_embd_bytes + profile.output_bytes
    on_host = [bar for bar in picture.bars if any(part.device == HOST for part in bar.parts)]
    assert len(on_host) > 20  # layers whose experts are there
    assert {part.device for bar in picture.bars for part in bar.parts} == {"GPU0", "GPU1", HOST}


def test_files(tmp_path: Path, model: str, plan: Plan, figures: PlanPicture) -> None:
    draw_plan(figures, tmp_path / "a.PNG")
    draw_plan(replace(figures, curves={}, limits=(), steps=()), tmp_path / "no_floor.svg")
    draw_layers(layer_picture(detection.analyze(model), plan), tmp_path / "b.png")
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in ("a.PNG", "b.png"))
    assert b"<svg " in (tmp_path / "no_floor.svg").read_bytes()


def test_a_picture_is_the_same_each_time(tmp_path: Path) -> None:
    layers = layer_picture(detection.analyze("demo"))
    for name in ("a.svg", "b.svg"):
        draw_layers(layers, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.pdf", r"a\.pdf is no name for a picture: give one that ends in \.svg or \.png"),
        ("nowhere/a.svg", r"a\.svg cannot be written: .*nowhere is no folder"),
        ("folder.svg", r"folder\.svg cannot be written: it is a folder"),
    ],
)
def test_paths_that_cannot_be_used(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(BadPicture, match=sentence):
        canvas.check_picture(tmp_path / name)


def test_the_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'vram-llm\[plot\]'"):
        canvas.check_picture(tmp_path / "a.svg")


def test_a_folder_that_is_gone_when_the_plan_is_there(tmp_path: Path, figures: PlanPicture) -> None:
    with pytest.raises(BadPicture, match=r"a\.svg cannot be written: No such file or directory"):
        draw_plan(figures, tmp_path / "gone" / "a.svg")


@pytest.mark.process
def test_commands(tmp_path: Path) -> None:
    drawn = run("plan", "demo", "--gpu", "RTX 3060", "--plot", str(tmp_path / "plan.svg"))
    assert (drawn.returncode, (tmp_path / "plan.svg").exists()) == (0, True), drawn.stderr
    drawn = run("analyze", "demo", "--plot", str(tmp_path / "layers.png"), "--gpu", "RTX 3060")
    assert (drawn.returncode, (tmp_path / "layers.png").exists()) == (0, True), drawn.stderr
    assert "picture: " in drawn.stderr
    refused = run("analyze", "demo", "--gpu", "RTX 3060")
    assert refused.returncode == 64
    assert "--plot" in refused.stderr
    refused = run("plan", "demo", "--plot", "a.txt")
    assert (refused.returncode, refused.stderr.count("\n")) == (64, 1)
