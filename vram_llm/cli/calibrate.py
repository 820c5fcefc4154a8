"""vram-llm calibrate: how fast llama.cpp computes on each device, measured."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vram_llm.machine.calibration_store import CalibrationRecord

ALL = "all"


def _no_nan(_: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):  # which no range turns away
        raise click.BadParameter("nan is no time", param=parameter)
    return value


@click.command("calibrate")
@click.option("--rpc", multiple=True, metavar="HOST:PORT[@SIZE]", help=(
    "Measure the worker that listens there as well. Repeat for more."
))  # fmt: skip
@click.option("--seconds", type=click.FloatRange(1, 3600), callback=_no_nan, metavar="N", help=(
    "How long each device is measured, loading aside; more evens out what others on the computer do."
))  # fmt: skip
@click.option("--show", is_flag=True, help="Print what was measured so far, and measure nothing.")
@click.option("--forget", multiple=True, metavar="DEVICE", help=(
    "Drop what was measured of a device, named as --show does, or of all. Repeat for more."
))  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in bytes, seconds and operations.")
def command(
    rpc: tuple[str, ...], seconds: float | None, show: bool, forget: tuple[str, ...], as_json: bool
) -> None:
    """Run llama.cpp on the host, on each GPU and on each worker alone, for some seconds each.

    Measures decode and prompt speed, what each layer and each step costs on top, and links; keeps it, with
    date and versions, and plans with it from then on. Nothing else should run on the devices meanwhile.
    """
    from vram_llm.machine import calibration_store

    if (show or forget) and (rpc or seconds):
        wish = "--rpc names workers to measure" if rpc else "--seconds says how long to measure"
        raise click.UsageError(f"{wish}; leave it out beside --show and --forget")
    if forget:
        dropped = calibration_store.forget(() if ALL in forget else forget)
        click.echo("forgotten: " + ("; ".join(dropped) or "nothing was measured"), err=True)
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
    """Everything that was measured; printed as well where an error ends it early."""
    from vram_llm.cli.speeds import progress
    from vram_llm.errors import VramLLMError
    from vram_llm.workflows import detection, measurement

    machine = detection.detect(rpc=rpc)
    found: dict[str, CalibrationRecord] = {}
    with progress() as on_progress:
        try:
            for name, record, notes in measurement.calibrate(
                machine, seconds=seconds, on_progress=on_progress
            ):
                found[name] = record
                for note in notes:
                    click.echo(f"note: {note}", err=True)
        except VramLLMError:
            if found:
                click.echo(f"measured and kept before that: {'; '.join(found)}", err=True)
            raise
    return found


def _print(records: "Mapping[str, CalibrationRecord]", as_json: bool) -> None:
    if as_json:
        from vram_llm.cli.json_document import document
        from vram_llm.cli.json_types import Calibration

        click.echo(document(Calibration(devices=dict(records))))
    elif records:
        from vram_llm.cli.speeds import print_records

        print_records(records)
    else:
        click.echo("nothing was measured so far; `vram-llm calibrate` does it")
