"""A note on the sums of a tensor split: how long a token waits for them, and where that figure is from."""

from vram_llm.machine.types import Source
from vram_llm.planner.types import Plan


def sum_notes(plan: Plan) -> tuple[str, ...]:
    """A sentence if devices share every layer; empty if each has whole layers."""
    if plan.speed is None or (sums := plan.speed.sums) is None:
        return ()
    waits_s, step_s = sums.count * sums.seconds, plan.speed.step_s
    each = f"{1e6 * sums.seconds:,.3g} us" if sums.seconds < 1e-3 else f"{1e3 * sums.seconds:,.3g} ms"
    sentence = (
        f"a token waits {1e3 * waits_s:,.3g} of {1e3 * step_s:,.3g} ms for {sums.count} sums of the devices, "
        f"{each} each ({sums.source}): {sums.way}"
    )
    if sums.source is Source.MEASURED or plan.is_what_if:
        return (sentence,)
    used = [device for device in plan.devices if device.id in plan.placement.device_order]
    options = dict.fromkeys(
        f" --ssh {device.tunnel}" if device.tunnel else f" --rpc {device.endpoint}"
        for device in used
        if device.endpoint is not None
    )
    return (f"{sentence}; `vram-llm calibrate{''.join(options)}` measures them",)
