"""The cheapest set of models to unload."""

from collections.abc import Callable, Iterable
from itertools import combinations

_MOST_TRIED = 12  # groups of which all sets are tried

Cost = Callable[[frozenset[str]], tuple[float, ...]]


def cheapest(
    groups: Iterable[frozenset[str]], is_enough: Callable[[frozenset[str]], bool], cost: Cost
) -> frozenset[str] | None:
    """The union of some of `groups` that `is_enough` and costs the least; None: all together are too few.

    With more than _MOST_TRIED groups the cheapest ones are added until it is enough, and those that are not
    needed are left out again.
    """
    ordered = sorted(groups, key=lambda group: (cost(group), sorted(group)))
    whole = frozenset[str]().union(*ordered)
    if is_enough(frozenset()):
        return frozenset()
    if not is_enough(whole):
        return None
    if len(ordered) > _MOST_TRIED:
        return _greedy(ordered, is_enough)
    sets = (
        frozenset[str]().union(*chosen)
        for n in range(1, len(ordered) + 1)
        for chosen in combinations(ordered, n)
    )
    return min((names for names in sets if is_enough(names)), key=lambda names: (cost(names), sorted(names)))


def _greedy(ordered: list[frozenset[str]], is_enough: Callable[[frozenset[str]], bool]) -> frozenset[str]:
    chosen: list[frozenset[str]] = []
    for group in ordered:
        chosen.append(group)
        if is_enough(frozenset[str]().union(*chosen)):
            break
    for group in list(chosen[::-1]):
        rest = [other for other in chosen if other is not group]
        if is_enough(frozenset[str]().union(*rest)):
            chosen = rest
    return frozenset[str]().union(*chosen)
