"""Whether the host lets a process lock a plan's weights in memory."""

from vram_llm.errors import BadPlan
from vram_llm.machine.types import Host
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.search.candidate import Candidate
from vram_llm.units import format_bytes


def check_lockable(profile: ModelProfile, host: Host, chosen: Candidate) -> None:
    """Raises BadPlan if --mlock would lock more than the system allows: llama.cpp would only warn.

    Of a mapped file llama.cpp locks all up to the last weight that the host has (llama_mlock::grow_to), which
    may be the whole file; of one that is read, the host's weights alone.
    """
    if not chosen.context.mlock:
        return
    if chosen.context.resident_bytes is not None:
        raise BadPlan("--from-disk locks the weights that stay in memory by itself: leave --mlock out")
    locked_bytes = chosen.estimate.host.weights_bytes
    if chosen.context.use_mmap:
        locked_bytes = max(locked_bytes, profile.total_bytes)
    if host.lockable_bytes is not None and locked_bytes > host.lockable_bytes:
        raise BadPlan(
            f"--mlock locks {format_bytes(locked_bytes)} of the host's memory, and a process may lock "
            f"{format_bytes(host.lockable_bytes)} here; raise RLIMIT_MEMLOCK (ulimit -l), or leave it out"
        )
