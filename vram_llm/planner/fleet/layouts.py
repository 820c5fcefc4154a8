"""Layouts of a model in a fleet: one place for each replica, on devices that no other replica uses."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vram_llm.planner.fleet.place_options import PlaceOption

_MOST_REPLICAS = 16
_MOST_COMBINATIONS = 4000  # of places for replicas that are tried
_MOST_LAYOUTS = 48  # of a model, the fastest for each set of devices first


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of all replicas of one model. Requests go to each in proportion to its throughput."""

    options: tuple[PlaceOption, ...]

    @property
    def uses(self) -> dict[str, int]:
        """Bytes of all replicas by device id and "host"."""
        total: dict[str, int] = {}
        for option in self.options:
            for device_id, n_bytes in option.uses.items():
                total[device_id] = total.get(device_id, 0) + n_bytes
        return total

    @property
    def throughput_tokens_per_s(self) -> float:
        """Of all replicas together."""
        return sum(option.throughput_tokens_per_s for option in self.options)

    @property
    def request_s(self) -> float:
        """Seconds of a typical request that is alone, on average over the replicas."""
        shares = zip(self._shares, self.options, strict=True)
        return sum(share * option.request_s for share, option in shares)

    @property
    def busy(self) -> dict[str, float]:
        """The share of a request's time in which it keeps a device busy, by device id and "host"."""
        total: dict[str, float] = {}
        for share, option in zip(self._shares, self.options, strict=True):
            for device_id, part in option.busy.items():
                total[device_id] = total.get(device_id, 0.0) + share * part
        return total

    @property
    def load_s(self) -> float:
        """Seconds of a load: replicas are loaded at the same time, and share the disk's reading."""
        return max(option.load_s for option in self.options)

    @property
    def _shares(self) -> list[float]:
        whole = self.throughput_tokens_per_s
        return [option.throughput_tokens_per_s / whole for option in self.options]


def layouts_of(
    options: Sequence[PlaceOption], replicas: int | None, groups: Collection[frozenset[str]] = ()
) -> tuple[Layout, ...]:
    """The layouts with `replicas` copies; None: with any number. Empty if the copies do not fit.

    Of each group of devices one replica may use one or several. A layout is left out if another one takes no
    more bytes anywhere, and is no slower.
    """
    counts = range(1, _MOST_REPLICAS + 1) if replicas is None else [replicas]
    fastest_first = sorted(options, key=lambda option: -option.throughput_tokens_per_s)
    found: list[Layout] = []
    for count in counts:
        combinations = itertools.islice(itertools.combinations(fastest_first, count), _MOST_COMBINATIONS)
        apart = [Layout(chosen) for chosen in combinations if _are_apart(chosen, groups)]
        if not apart:
            break
        found += apart
    return _pruned(found, is_auto=replicas is None)


def time_of(layout: Layout, *, is_auto: bool) -> float:
    """The time by which layouts of a model are compared, in seconds.

    It is that of a typical request; if the number of replicas is open, that of a token at full load.
    """
    return 1 / layout.throughput_tokens_per_s if is_auto else layout.request_s


def _are_apart(options: Sequence[PlaceOption], groups: Collection[frozenset[str]]) -> bool:
    used: set[str] = set()
    for option in options:
        own = {*option.devices, *(each for group in groups if group & {*option.devices} for each in group)}
        if own & used or (not option.devices and len(options) > 1):
            return False
        used |= own
    return True


def _pruned(layouts: Sequence[Layout], *, is_auto: bool) -> tuple[Layout, ...]:
    """The layouts that no other one beats, at most _MOST_LAYOUTS."""
    kept: list[tuple[Layout, Mapping[str, int], float]] = []
    for layout in sorted(layouts, key=lambda layout: time_of(layout, is_auto=is_auto)):
        uses = layout.uses
        if not any(_takes_no_more(other, uses) for _, other, _ in kept):
            kept.append((layout, uses, time_of(layout, is_auto=is_auto)))
    return tuple(layout for layout, _, _ in kept[:_MOST_LAYOUTS])


def _takes_no_more(uses: Mapping[str, int], than: Mapping[str, int]) -> bool:
    return all(n_bytes <= than.get(device_id, 0) for device_id, n_bytes in uses.items())
