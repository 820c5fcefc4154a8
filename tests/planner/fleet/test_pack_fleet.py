"""Fleets of models of published shapes on cards, by the analytic meter."""

import dataclasses
from collections.abc import Mapping, Sequence

import pytest

from tests import zoo
from tests.planner.cases import machine, profile_of, speed, with_speeds
from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.fleet.check_spec import at_start, checked, must_fit
from vram_llm.planner.fleet.limits import FittingModels, Limits
from vram_llm.planner.fleet.pack import Packing
from vram_llm.planner.fleet.pack_fleet import pack_fleet
from vram_llm.planner.fleet.place_options import PlaceFinder, equal_devices
from vram_llm.planner.fleet.reasons import reason
from vram_llm.planner.fleet.room import budgets_of
from vram_llm.planner.fleet.types import FleetModelSpec, FleetSpec
from vram_llm.planner.types import Workload
from vram_llm.units import GIB

_WORKLOAD = Workload(n_ctx=4096, parallel=1)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ModelProfile]:
    """Models of about 8.5, 4.5 and 1.2 GiB, and an encoder."""
    folder = tmp_path_factory.mktemp("profiles")
    models = {
        "large": zoo.llama(),
        "middle": zoo.llama(layers=16),
        "small": zoo.llama(layers=8, d=2048, heads=16, ff=7168),
        "encoder": zoo.SMALL["bert"](),
    }
    found = {}
    for name, model in models.items():
        (folder / name).mkdir()
        found[name] = profile_of(model, folder / name)
    return found


def _spec(*names: str, **groups: tuple[frozenset[str], ...]) -> FleetSpec:
    return FleetSpec(models=tuple(_model(name) for name in names), **groups)


def _model(name: str) -> FleetModelSpec:
    """A model whose name begins with that of a profile, "large-1"."""
    return FleetModelSpec(name=name, source=name, workload=_WORKLOAD)


def _packed(
    spec: FleetSpec, rig: Machine, profiles: Mapping[str, ModelProfile]
) -> tuple[Packing, FittingModels, dict[str, str]]:
    """The packing, its models, and the reason for each place."""
    spec = checked(spec, rig)
    limits = Limits(budgets=budgets_of(rig, _WORKLOAD.reserve_bytes), apart=spec.apart)
    finders = {}
    for model in spec.models:
        devices = [device for device in rig.devices if model.devices is None or device.id in model.devices]
        own = dataclasses.replace(rig, devices=tuple(devices))
        finders[model.name] = PlaceFinder(profiles[model.name.partition("-")[0]], own, model.workload)
    packing, models = pack_fleet(spec, finders, limits, equal_devices(rig, limits.budgets))
    uses = {name: [option.uses for option in layout.options] for name, layout in packing.layouts.items()}
    reasons = {name: reason(name, models, packing.layouts, limits) for name in packing.layouts}
    return packing, FittingModels(limits, uses), reasons


def _devices(packing: Packing, name: str) -> list[tuple[str, ...]]:
    return [option.devices for option in packing.layouts[name].options]


def _rig(*gib: float, rates: Sequence[float] = ()) -> Machine:
    rig = machine([int(size * GIB) for size in gib])
    return with_speeds(rig, *(speed(rate, row_tflops=1.0) for rate in rates)) if rates else rig


def test_all_models_are_resident_on_a_card_each(profiles: Mapping[str, ModelProfile]) -> None:
    """A card that is a third as fast is better than a load for every third request."""
    rig = _rig(12, 24, rates=(900, 300))
    packing, fitting, reasons = _packed(_spec("large-1", "middle", "large-2"), rig, profiles)
    assert fitting.maximal_sets() == (frozenset({"large-1", "middle", "large-2"}),)
    assert packing.is_proven
    slow = next(name for name in ("large-1", "large-2") if _devices(packing, name) == [("GPU1",)])
    assert "on GPU1; on GPU0 it would have" in reasons[slow]
    assert "times the speed, and not fit together with middle" in reasons[slow]


def test_an_embedder_takes_the_card_that_would_idle(profiles: Mapping[str, ModelProfile]) -> None:
    packing, fitting, _ = _packed(_spec("large", "encoder"), _rig(16, 4, rates=(900, 700)), profiles)
    assert _devices(packing, "large") == [("GPU0",)]
    assert _devices(packing, "encoder") == [("GPU1",)]
    assert fitting.fit(["large", "encoder"])


def test_a_pinned_encoder_stays_on_its_card(profiles: Mapping[str, ModelProfile]) -> None:
    """One that may go anywhere may also be on the host."""
    places = {
        may: {option.devices for option in _finder(profiles["encoder"], may).options()}
        for may in (True, False)
    }
    assert places == {True: {("GPU0",), ()}, False: {("GPU0",)}}


def _finder(profile: ModelProfile, may_leave_devices: bool) -> PlaceFinder:
    return PlaceFinder(profile, _rig(8), _WORKLOAD, may_leave_devices=may_leave_devices)


def test_a_model_is_split_over_what_the_others_leave(profiles: Mapping[str, ModelProfile]) -> None:
    """Two large models on two cards of 13 GiB leave 3 GiB on each: the middle one takes both."""
    packing, fitting, _ = _packed(_spec("large-1", "large-2", "middle"), _rig(13, 13), profiles)
    assert sorted(_devices(packing, "large-1") + _devices(packing, "large-2")) == [("GPU0",), ("GPU1",)]
    assert sorted(_devices(packing, "middle")[0]) == ["GPU0", "GPU1"]
    assert fitting.fit(["large-1", "large-2", "middle"])


def test_a_pin_and_allowed_devices_hold(profiles: Mapping[str, ModelProfile]) -> None:
    spec = _spec("small-1", "small-2")
    pinned = dataclasses.replace(spec.models[0], devices=("gpu1",))
    by_index = dataclasses.replace(spec.models[1], devices=("1", "card 2"))
    rig = _rig(24, 8, 8, rates=(900, 100, 100))
    packing, _, _ = _packed(dataclasses.replace(spec, models=(pinned, by_index)), rig, profiles)
    assert _devices(packing, "small-1") == [("GPU1",)]
    assert _devices(packing, "small-2") == [("GPU2",)]


def test_replicas_where_copies_give_more_than_a_split(profiles: Mapping[str, ModelProfile]) -> None:
    auto = dataclasses.replace(_model("middle"), replicas=None)
    rig = _rig(12, 12, 4, rates=(400, 300, 300))
    packing, _, reasons = _packed(FleetSpec(models=(auto,)), rig, profiles)
    assert _devices(packing, "middle") == [("GPU0",), ("GPU1",)]
    assert reasons["middle"].startswith("2 copies, on GPU0 and on GPU1: ")
    assert "tok/s together, predicted; the best single copy, on GPU0, has" in reasons["middle"]


def test_one_copy_where_a_second_excludes_another_model(profiles: Mapping[str, ModelProfile]) -> None:
    auto = dataclasses.replace(_model("large"), replicas=None)
    packing, fitting, reasons = _packed(
        FleetSpec(models=(auto, _model("large-2"))), _rig(12, 12, rates=(400, 400)), profiles
    )
    assert len(_devices(packing, "large")) == 1
    assert fitting.fit(["large", "large-2"])
    assert "2 copies, on GPU0 and on GPU1, would have" in reasons["large"]
    assert "and not fit together with large-2" in reasons["large"]


def test_so_many_replicas_as_asked_for(profiles: Mapping[str, ModelProfile]) -> None:
    two = dataclasses.replace(_model("middle"), replicas=2)
    packing, _, _ = _packed(FleetSpec(models=(two,)), _rig(8, 8, 8), profiles)
    assert len(set(_devices(packing, "middle"))) == 2
    with pytest.raises(
        DoesNotFit, match="can never be loaded at the same time: 2 fit, each on devices of its own"
    ):
        _packed(FleetSpec(models=(dataclasses.replace(two, replicas=3),)), _rig(8, 8), profiles)


def test_what_never_fits_is_refused_by_how_much(profiles: Mapping[str, ModelProfile]) -> None:
    rig = machine([4 * GIB], host_bytes=3 * GIB)
    with pytest.raises(DoesNotFit, match=r"large-1 can never be loaded: .* short") as caught:
        _packed(_spec("small", "large-1"), rig, profiles)
    assert caught.value.short_bytes > 0
    spec = _spec("large-1", "large-2", together=(frozenset({"large-1", "large-2"}),))
    with pytest.raises(DoesNotFit, match=r"large-1 and large-2 .*never fit: .* GiB more than") as caught:
        _packed(spec, _rig(16), profiles)
    assert 0 < caught.value.short_bytes < 16 * GIB


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (FleetSpec(models=()), "has no models"),
        (_spec("small", "small"), "two models are called 'small'"),
        (_spec("small", apart=(frozenset({"small", "big"}),)), "a group names 'big'"),
        (
            _spec("a", "b", apart=(frozenset("ab"),), together=(frozenset("ab"),)),
            "a and b are to be resident together",
        ),
        (
            FleetSpec(
                models=tuple(dataclasses.replace(_model(name), preload=True) for name in "ab"),
                apart=(frozenset("ab"),),
            ),
            "a and b are to be loaded at the start",
        ),
        (
            FleetSpec(models=(dataclasses.replace(_model("a"), devices=("GPU7",)),)),
            r"a may use 'GPU7', which is no device; the devices are GPU0 \(card 0\), GPU1 \(card 1\)",
        ),
        (
            FleetSpec(models=(dataclasses.replace(_model("a"), devices=("card",)),)),
            "'card', which is the name of 2 devices",
        ),
    ],
)
def test_contradictions_are_refused(spec: FleetSpec, message: str) -> None:
    with pytest.raises(BadPlan, match=message):
        checked(spec, _rig(8, 8))


def test_models_of_the_start_and_their_groups_must_fit() -> None:
    spec = _spec("a", "b", "c", "d", together=(frozenset("ab"),))
    preloaded = tuple(dataclasses.replace(model, preload=model.name in ("a", "c")) for model in spec.models)
    spec = dataclasses.replace(spec, models=preloaded)
    assert at_start(spec) == ("a", "b", "c")
    assert set(must_fit(spec)) == {frozenset("ab"), frozenset("abc")}
