"""Candidates that have the changes of two others."""

from dataclasses import fields, replace

from vram_llm.planner.tuning.choice import TunedChoice


def merged(own: TunedChoice, best: TunedChoice, second: TunedChoice) -> TunedChoice | None:
    """`best` with those changes of `second` to the prediction's choice `own` that `best` does not have.

    None if that is one of the three. A placement's fields belong together: they come from one of the two.
    """
    names = [each.name for each in fields(TunedChoice)]
    placement = ("tensor_split", "split_mode", "n_gpu_layers", "overrides", "op_offload", "pipeline_copies")
    moved = any(getattr(best, name) != getattr(own, name) for name in placement)
    taken = {
        name: getattr(second, name)
        for name in names
        if getattr(best, name) == getattr(own, name) and not (moved and name in placement)
    }
    found = replace(best, **taken)
    return None if found in (own, best, second) else found
