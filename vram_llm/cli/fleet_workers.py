"""`workers:` of a configuration file: RPC workers with their names, and computers behind SSH tunnels."""

from dataclasses import dataclass, replace

from vram_llm.cli.config_file import ConfigEntry, ConfigObject, is_true
from vram_llm.cli.configured_command import WORKERS, nearest_key
from vram_llm.errors import BadConfig, WorkerUnreachable
from vram_llm.machine.worker_spec import WorkerSpec, worker_at, worker_over_ssh

WORKER_KEYS = ("address", "name", "ssh", "start")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetWorker:
    """A worker of the file. `place` is FILE:LINE."""

    name: str
    spec: WorkerSpec
    place: str


def read_workers(entry: ConfigEntry) -> tuple[FleetWorker, ...]:
    """The workers. Raises BadConfig."""
    workers = tuple(_worker(one) for one in entry.objects())
    places: dict[str, str] = {}
    for worker in workers:
        for name in dict.fromkeys((worker.name, worker.spec.label)):
            if name in places:
                raise BadConfig(f"{worker.place}: {name} is already a worker in {places[name]}")
            places[name] = worker.place
    return workers


def _worker(one: ConfigObject) -> FleetWorker:
    if one.text is not None:
        spec = _spec(one.text, one.place)
        return FleetWorker(name=spec.label, spec=spec, place=one.place)
    entries = {entry.key: entry for entry in one.entries}
    for key, entry in entries.items():
        if key not in WORKER_KEYS:
            near = nearest_key(key, WORKER_KEYS) or f"; a worker takes {', '.join(WORKER_KEYS)}"
            raise BadConfig(f"{entry.place}: there is no key {key} of a worker{near}")
    if "address" not in entries and "ssh" not in entries:
        raise BadConfig(
            f"{one.place}: an entry of {WORKERS} has its address, `address: 10.0.0.2:50052`, or `ssh: me@box`"
        )
    spec = (
        _spec(entries["address"].text(), entries["address"].place) if "address" in entries else WorkerSpec()
    )
    if "ssh" in entries:
        spec = _over_ssh(spec, entries, has_address="address" in entries)
    elif "start" in entries:
        raise BadConfig(f"{entries['start'].place}: start needs ssh, by which the worker is started")
    name = entries["name"].text() if "name" in entries else spec.label
    return FleetWorker(name=name, spec=spec, place=one.place)


def _over_ssh(spec: WorkerSpec, entries: dict[str, ConfigEntry], *, has_address: bool) -> WorkerSpec:
    starts = "start" in entries and is_true(entries["start"])
    try:
        far = worker_over_ssh(entries["ssh"].text(), start=starts)
    except WorkerUnreachable as error:
        raise BadConfig(f"{entries['ssh'].place}: {error}") from None
    return replace(spec, ssh=far.ssh, start=starts) if has_address else far


def _spec(address: str, place: str) -> WorkerSpec:
    try:
        return worker_at(address)
    except WorkerUnreachable as error:
        raise BadConfig(f"{place}: {error}") from None
