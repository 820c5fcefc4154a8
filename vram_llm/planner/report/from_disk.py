"""A plan's reads from the disk, in sentences."""

from vram_llm.planner.report.figures import seconds
from vram_llm.planner.types import DISK, HOST, Plan
from vram_llm.units import format_bytes

_NAMES = {HOST: "the CPU", DISK: "waiting for the disk"}


def reads_from_disk(plan: Plan) -> str | None:
    """ "each token reads 1.90 GiB from the disk"; None if none does."""
    reads = plan.disk_reads
    if reads is None or not reads.token_bytes:
        return None
    return f"each token reads {format_bytes(reads.token_bytes)} from the disk"


def why_from_disk(plan: Plan) -> tuple[str, ...]:
    """Sentences: what stays in memory and what is read, the time of each part, and what that spares."""
    reads, speed = plan.disk_reads, plan.speed
    if reads is None or speed is None or not reads.token_bytes:
        return ()
    rate = f"{reads.bytes_per_s.value / 1e9:.2g} GB/s ({reads.bytes_per_s.source})"
    read_s = reads.token_bytes / reads.bytes_per_s.value
    experts = ""
    if reads.expert_bytes:
        experts = f" ({format_bytes(reads.expert_bytes)} are the experts that a token is expected to use)"
    times = ", ".join(f"{_NAMES.get(each.id, each.id)} {seconds(each.seconds)}" for each in speed.devices)
    cyclic_s = reads.cyclic_bytes / reads.bytes_per_s.value
    return (
        f"Disk: {format_bytes(reads.resident_bytes)} of the weights on the CPU stay in memory, and "
        f"{format_bytes(reads.window_bytes)} are left for reading ahead. A token reads the others, "
        f"{format_bytes(reads.token_bytes)}{experts}: {seconds(read_s)} at {rate}.",
        f"A token takes {seconds(speed.step_s)}: {times}.",
        f"If nothing stayed in memory, each token would read all {format_bytes(reads.cyclic_bytes)} that it "
        f"needs, {seconds(cyclic_s)}: a page cache that is smaller than what is read over and over keeps "
        "none of it.",
    )
