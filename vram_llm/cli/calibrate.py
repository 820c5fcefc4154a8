"""vram-llm calibrate: measure how fast llama.cpp computes on each device."""

import math
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.ssh_workers import ssh_workers

if TYPE_CHECKING:
    from vram_llm.cli.json_types import Calibration

ALL = "all"


def _no_nan(_: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):  # a FloatRange accepts nan
        raise click.BadParameter("nan is no time", param=parameter)
    return value


@click.command("calibrate")
@click.option("--rpc", multiple=True, metavar="HOST:PORT[@SIZE]", help=(
    "Measure the RPC worker at HOST:PORT too. Repeat for more."
))  # fmt: skip
@click.option("--ssh", multiple=True, metavar="[USER@]HOST[:PORT]", help=(
    "Measure the RPC worker on HOST too, through a tunnel of the ssh client. Repeat for more."
))  # fmt: skip
@click.option("--model", "-m", "models", multiple=True, metavar="MODEL", help=(
    "Measure the disk that holds MODEL too. Repeat for more.  [default: those of the models that `vram-llm "
    "models` lists]"
))  # fmt: skip
@click.option("--seconds", type=click.FloatRange(1, 3600), callback=_no_nan, metavar="N", help=(
    "Time to measure each device, without loading. A longer time averages out the load of other programs."
))  # fmt: skip
@click.option("--show", is_flag=True, help="Print the stored measurements, and measure nothing.")
@click.option("--forget", multiple=True, metavar="DEVICE", help=(
    "Delete the measurements of DEVICE, a device or disk named as in --show, or of all: all. Repeat for more."
))  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in bytes, seconds and operations.")
def command(
    rpc: tuple[str, ...],
    ssh: tuple[str, ...],
    models: tuple[str, ...],
    seconds: float | None,
    show: bool,
    forget: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure llama.cpp on the host, on each GPU and on each worker, one at a time, for some seconds each.

    The measurements are decode and prompt speed, the overhead of each layer, of each step and of each part of
    a step that comes back from another device, and link speed; on the host also the best number of threads,
    and the speed of each quantisation type; how long devices take to add up in a tensor split, for all of
    them, without the slowest, and so on; and how fast the disks with models read. They are stored with date
    and versions, and later plans use them. Run nothing else on the devices meanwhile.
    """
    if (show or forget) and (rpc or ssh or models or seconds):
        wish = "--rpc names workers to measure" if rpc else "--model names disks to measure"
        wish = "--ssh names workers to measure" if ssh else wish
        wish = wish if rpc or ssh or models else "--seconds says how long to measure"
        raise click.UsageError(f"{wish}; leave it out with --show and --forget")
    if forget:
        terminal.say("forgotten: " + ("; ".join(_forget(forget)) or "no measurements"), err=True)
        if not show:
            return
    _print(_stored() if show else _measure(rpc, ssh, models, seconds), as_json)


def _forget(names: tuple[str, ...]) -> tuple[str, ...]:
    """Delete measurements. Returns the names of those that there were."""
    from vram_llm.machine import calibration_store, disk_store, sum_store

    if ALL in names:
        sums = sum_store.forget(None)
        return (*calibration_store.forget(()), *sums, *disk_store.forget(disk_store.read()[0]))
    disks, sums = disk_store.forget(names), sum_store.forget(names)
    others = tuple(name for name in names if name not in (*disks, *sums))
    return (*(calibration_store.forget(others) if others else ()), *sums, *disks)


def _stored() -> "Calibration":
    from vram_llm.cli.json_types import Calibration
    from vram_llm.machine import calibration_store, disk_store, sum_store

    devices, device_notes = calibration_store.read()
    disks, disk_notes = disk_store.read()
    sums, sum_notes = sum_store.read()
    _print_notes((*device_notes, *disk_notes, *sum_notes))
    return Calibration(devices=devices, disks=disks, sums=sums)


def _measure(
    rpc: tuple[str, ...], ssh: tuple[str, ...], models: tuple[str, ...], seconds: float | None
) -> "Calibration":
    """Measure every device and disk. If an error ends the measuring, print those that are already stored."""
    from vram_llm.cli.json_types import Calibration
    from vram_llm.cli.speed_tables import progress
    from vram_llm.errors import VramLLMError
    from vram_llm.machine import calibration_store
    from vram_llm.workflows import detection, measurement

    machine = detection.detect(rpc=rpc, workers=ssh_workers(ssh))
    found = Calibration(devices={}, disks={}, sums={})
    with progress() as on_progress:
        try:
            for disk in measurement.calibrate_disks(models, seconds=seconds, on_progress=on_progress):
                found.disks[disk.key] = disk.record
                _print_notes(disk.notes)
            for stored in measurement.calibrate(machine, seconds=seconds, on_progress=on_progress):
                found.devices[stored.key] = stored.record
                _print_notes(stored.notes)
            machine = calibration_store.with_measured_speeds(machine)
            for each in measurement.calibrate_sums(machine, seconds=seconds, on_progress=on_progress):
                if each.record is not None:
                    found.sums[each.key] = each.record
                _print_notes(each.notes)
        except VramLLMError:
            if kept := [*found.disks, *found.devices, *found.sums]:
                terminal.say(f"measured and kept before that: {'; '.join(kept)}", err=True)
            raise
    return found


def _print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        terminal.say(f"note: {note}", err=True)


def _print(found: "Calibration", as_json: bool) -> None:
    if as_json:
        from vram_llm.cli.json_document import document

        click.echo(document(found))
        return
    from vram_llm.cli.speed_tables import print_disks, print_records, print_sums

    if found.devices:
        print_records(found.devices)
    print_sums(found.sums)
    print_disks(found.disks)
    if not found.devices and not found.disks and not found.sums:
        terminal.say("no measurements yet; `vram-llm calibrate` makes them")
