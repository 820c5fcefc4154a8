"""vram-llm calibrate: measure how fast llama.cpp computes on each device."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vram_llm.machine.calibration_store import CalibrationRecord

ALL = "all"


def _no_nan(_: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):  # a FloatRange accepts nan
        raise click.BadParameter("nan is no time", param=parameter)
    return value


@click.command("calibrate")
@click.option("--rpc", multiple=True, metavar="HOST:PORT[@SIZE]", help=(
    "Measure the RPC worker at HOST:PORT too. Repeat for more."
))  # fmt: skip
@click.option("--seconds", type=click.FloatRange(1, 3600), callback=_no_nan, metavar="N", help=(
    "Time to measure each device, without loading. A longer time averages out the load of other programs."
))  # fmt: skip
@click.option("--show", is_flag=True, help="Print the stored measurements, and measure nothing.")
@click.option("--forget", multiple=True, metavar="DEVICE", help=(
    "Delete the measurements of DEVICE, named as in --show, or of all devices: all. Repeat for more."
))  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in bytes, seconds and operations.")
def command(
    rpc: tuple[str, ...], seconds: float | None, show: bool, forget: tuple[str, ...], as_json: bool
) -> None:
    """Measure llama.cpp on the host, on each GPU and on each worker, one at a time, for some seconds each.

    The measurements are decode and prompt speed, the overhead of each layer, of each step and of each part of
    a step that comes back from another device, and link speed; on the host also the best number of threads,
    and the speed of each quantisation type. They are stored with date and versions, and later plans use them.
    Run nothing else on the devices meanwhile.
    """
    from vram_llm.machine import calibration_store

    if (show or forget) and (rpc or seconds):
        wish = "--rpc names workers to measure" if rpc else "--seconds says how long to measure"
        raise click.UsageError(f"{wish}; leave it out with --show and --forget")
    if forget:
        dropped = calibration_store.forget(() if ALL in forget else forget)
        click.echo("forgotten: " + ("; ".join(dropped) or "no measurements"), err=True)
        if not show:
            return
    if show:
        records, notes = calibration_store.read()
        for note in notes:
            click.echo(f"note: {note}", err=True)
    else:
        records = _measure(rpc, seconds)
    _print(records, as_json)


def _measure(rpc: tuple[str, ...], seconds: float | None) -> "dict[str, CalibrationRecord]":
    """Measure every device. If an error ends the measuring, print the devices that are already stored."""
    from vram_llm.cli.speed_tables import progress
    from vram_llm.errors import VramLLMError
    from vram_llm.workflows import detection, measurement

    machine = detection.detect(rpc=rpc)
    records: dict[str, CalibrationRecord] = {}
    with progress() as on_progress:
        try:
            for name, record, notes in measurement.calibrate(
                machine, seconds=seconds, on_progress=on_progress
            ):
                records[name] = record
                for note in notes:
                    click.echo(f"note: {note}", err=True)
        except VramLLMError:
            if records:
                click.echo(f"measured and kept before that: {'; '.join(records)}", err=True)
            raise
    return records


def _print(records: "Mapping[str, CalibrationRecord]", as_json: bool) -> None:
    if as_json:
        from vram_llm.cli.json_document import document
        from vram_llm.cli.json_types import Calibration

        click.echo(document(Calibration(devices=dict(records))))
    elif records:
        from vram_llm.cli.speed_tables import print_records

        print_records(records)
    else:
        click.echo("no measurements yet; `vram-llm calibrate` makes them")
