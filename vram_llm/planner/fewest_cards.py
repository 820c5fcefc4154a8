"""Placements on as few devices as hold a model: each further one takes compute buffers and overhead."""

from collections.abc import Sequence

from vram_llm.planner.estimates import Estimate
from vram_llm.planner.llama_split import placement_of
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import Meter, Placement


def on_fewest_devices(
    ids: Sequence[str], n_items: int, n_host: int, overrides: tuple[Override, ...], meter: Meter
) -> Placement:
    """The first `n_host` of a model's items on the host, the others on the fewest devices that hold them.

    `ids` are devices, the preferred first; items are the layers and the output. One device is used if any
    holds all of them, else the first two, three, ... of which each is filled before the next. If all of them
    together hold too little, the last device is over its budget.
    """
    filler = _Filler(n_items, n_host, overrides, meter)
    placement = filler.placement(ids[:1], [])
    for device_id in ids:
        alone = filler.placement([device_id], [])
        if _devices_hold(meter(alone)):
            return alone
    for count in range(2, len(ids) + 1):
        placement = filler.filled(ids[:count])
        if _devices_hold(meter(placement)):
            return placement
    return placement


class _Filler:
    """Fills devices with items, one device after the other."""

    def __init__(self, n_items: int, n_host: int, overrides: tuple[Override, ...], meter: Meter) -> None:
        self._n_items, self._n_host = n_items, n_host
        self._overrides, self._meter = overrides, meter

    def placement(self, ids: Sequence[str], ends: Sequence[int]) -> Placement:
        """Runs of items on `ids`; ends[i] is one past the last item of ids[i]; the last takes the rest."""
        assignment, start = [-1] * self._n_host, self._n_host
        for index, end in enumerate([*ends, *[self._n_items] * (len(ids) - len(ends))]):
            assignment += [index] * (end - start)
            start = end
        return placement_of(ids, assignment, self._overrides)

    def filled(self, ids: Sequence[str]) -> Placement:
        """Each device but the last holds as many items as it can."""
        ends: list[int] = []
        for index in range(len(ids) - 1):
            low, high = (ends or [self._n_host])[-1], self._n_items
            while low < high:
                middle = (low + high + 1) // 2
                if self._holds([*ends, middle], ids, index):
                    low = middle
                else:
                    high = middle - 1
            ends.append(low)
        return self.placement(ids, ends)

    def _holds(self, ends: Sequence[int], ids: Sequence[str], index: int) -> bool:
        """Whether ids[index] holds its run; all later items are on the last device."""
        rest = [*ends, *[ends[-1]] * (len(ids) - 1 - len(ends))]
        uses = self._meter(self.placement(ids, rest)).devices
        return all(use.over_bytes <= 0 for use in uses if use.id == ids[index])


def _devices_hold(estimate: Estimate) -> bool:
    return all(use.over_bytes <= 0 for use in estimate.devices)
