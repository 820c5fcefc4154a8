"""Plans in which weights stay in the model's file: what they need and cost, and when they are refused."""

from dataclasses import replace

from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.machine.assumed_speed import disk_speed, host_speed
from vram_llm.machine.types import Fact, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import wants_auto_context
from vram_llm.planner.disk.resident_weights import weights_on_host, window_bytes
from vram_llm.planner.disk_reads import DiskReads
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.types import Context, Meter, MeterFor, Placement, SpeedEstimate, Workload
from vram_llm.units import format_bytes, format_count

SLOWEST_STEP_S = 60.0
"""The longest time for a token that is served."""
_ROOM_BYTES = 2**60


def check_can_read(profile: ModelProfile, machine: Machine, workload: Workload) -> None:
    """Raises BadPlan if the file cannot be mapped, so that its weights have to be in memory."""
    if workload.use_mmap is False:
        raise BadPlan("--from-disk maps the model's file, and --no-mmap forbids it: leave one of them out")
    if not profile.can_map:
        raise BadPlan(
            f"--from-disk maps the model's file, and llama.cpp cannot map {profile.name}: its weights are "
            "not aligned; convert it again, or leave --from-disk out"
        )
    if shared := next((device for device in machine.devices if device.shares_host_memory), None):
        raise BadPlan(
            f"--from-disk is for devices with memory of their own, and {shared.name} uses the computer's; "
            "leave --from-disk out, and take a smaller quantisation or a shorter --n-ctx"
        )


def roomy(machine: Machine) -> Machine:
    """`machine` with room for all weights on the host, which reads them as fast as the disk lets it.

    Memory holds a part of them; of what one more layer would need there, all is read from the disk.
    """
    rate = disk_speed(machine.host).value
    speed = host_speed(machine.host)

    def slowed(fact: Fact) -> Fact:
        return Fact(1 / (1 / fact.value + 1 / rate), fact.source)

    types = (replace(each, read_bytes_per_s=slowed(each.read_bytes_per_s)) for each in speed.types)
    slow = replace(speed, read_bytes_per_s=slowed(speed.read_bytes_per_s), types=tuple(types))
    return replace(machine, host=replace(machine.host, available_bytes=_ROOM_BYTES, speed=slow))


def with_context(profile: ModelProfile, workload: Workload) -> Workload:
    """`workload` with the default context if it is open: a longer one takes memory that weights need."""
    if not wants_auto_context(profile, workload):
        return workload
    trained = profile.context_length or Workload.DEFAULT_N_CTX
    return replace(workload, n_ctx=min(Workload.DEFAULT_N_CTX, trained))


def unbounded(exact: MeterFor | None) -> MeterFor | None:
    """`exact` with room for everything on the host."""
    if exact is None:
        return None

    def meter_for(context: Context) -> Meter:
        meter = exact(context)

        def measure(placement: Placement) -> Estimate:
            estimate = meter(placement)
            return replace(estimate, host=replace(estimate.host, budget_bytes=_ROOM_BYTES))

        return measure

    return meter_for


def settled(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    placed: tuple[Context, Placement, Estimate],
) -> tuple[Context, Estimate]:
    """Context and estimate with as many weights in memory as there is room for.

    Raises DoesNotFit if the memory has no room for the rest.
    """
    context, placement, estimate = placed
    host, weights = estimate.host, weights_on_host(profile, placement)
    budget, window = machine.host.budget_bytes(workload.reserve_bytes), window_bytes(weights)
    fixed = host.total_bytes - host.weights_bytes + (workload.serving.slots_ram_bytes or 0)
    room = budget - fixed - window
    if room < 0:
        raise DoesNotFit(
            f"{profile.name} {profile.quantization} does not fit even from the disk: the computer's memory "
            f"is {format_bytes(-room)} short ({format_bytes(fixed)} for a context of "
            f"{format_count(context.n_ctx)} and its buffers, {format_bytes(window)} for weights that are "
            f"read, and {format_bytes(budget)} can be used); lower --n-ctx, --n-ubatch or --reserve-mib, or "
            "take --kv-type q8_0",
            short_bytes=-room,
            host_is_short=True,
        )
    disk_bytes = max(host.weights_bytes - room - window, 0)
    total_bytes = host.total_bytes - disk_bytes
    host = replace(host, disk_bytes=disk_bytes, total_bytes=total_bytes, budget_bytes=budget)
    return replace(context, resident_bytes=room), replace(estimate, host=host)


def check_speed(profile: ModelProfile, reads: DiskReads, speed: SpeedEstimate) -> None:
    """Raises DoesNotFit if a token takes longer than SLOWEST_STEP_S."""
    if speed.step_s <= SLOWEST_STEP_S:
        return
    needed = reads.bytes_per_s.value * speed.step_s / SLOWEST_STEP_S
    raise DoesNotFit(
        f"{profile.name} {profile.quantization}: the disk is too slow: each token would read "
        f"{format_bytes(reads.token_bytes)} at {_rate(reads.bytes_per_s)} and take {speed.step_s:,.0f} s, "
        f"and more than {SLOWEST_STEP_S:.0f} s are not served; {needed / 1e9:.2g} GB/s would do, or "
        f"{format_bytes(reads.token_bytes)} more memory, or a smaller quantisation",
        host_is_short=True,
    )


def notes(machine: Machine, estimate: Estimate, reads: DiskReads | None) -> tuple[str, ...]:
    """Notes on a plan's reads from the disk, on memory that would spare them, and on the lockable memory."""
    if reads is None or not reads.token_bytes:
        return ()
    seconds = reads.token_bytes / reads.bytes_per_s.value
    limit = machine.host.lockable_bytes
    sentences = [
        f"each token reads {format_bytes(reads.token_bytes)} of weights from the disk, {seconds:.2g} s at "
        f"{_rate(reads.bytes_per_s)}; with {format_bytes(estimate.host.disk_bytes)} more memory it would "
        "read none"
    ]
    if limit is not None and limit < reads.resident_bytes:
        sentences.append(
            f"{format_bytes(limit)} of the {format_bytes(reads.resident_bytes)} that stay in memory may be "
            "locked there (RLIMIT_MEMLOCK), so other programs may push them out: `ulimit -l unlimited`, or "
            "LimitMEMLOCK=infinity in a unit of systemd, allows more"
        )
    if reads.bytes_per_s.source is Source.ASSUMED:
        how = "--disk 7GB/s says it" if machine.host.what_if else "`vram-llm calibrate` measures it"
        sentences.append(f"the disk's speed is assumed ({_rate(reads.bytes_per_s)}); {how}")
    return tuple(sentences)


def _rate(fact: Fact) -> str:
    """ "3.5 GB/s (measured)"."""
    return f"{fact.value / 1e9:.2g} GB/s ({fact.source})"
