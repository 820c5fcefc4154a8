"""vram-llm plan: which layers on which device, and what each will hold."""

from typing import TYPE_CHECKING

import click

from vram_llm.cli.options import Wishes, one_model, wishes

if TYPE_CHECKING:
    from vram_llm.machine.types import Machine


@click.command("plan")
@click.argument("model", required=False)
@click.option("--model", "model_option", metavar="MODEL", help="The same as the argument.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; `serve --plan FILE` reads it.")
@wishes
def command(wishes: Wishes, model: str | None, model_option: str | None, as_json: bool) -> None:
    """Plan MODEL over this machine's devices, RPC workers or cards that are not here.

    Exits with 2 where nothing fits, and says what would. Without MODEL: the machine, and what of it can be
    used.
    """
    from vram_llm import api

    name = one_model(model, model_option)
    machine = api.detect(wishes.gpus, wishes.rpc)
    if name is None:
        _show_machine(machine, wishes.workload.reserve_bytes, as_json)
        return
    plan = api.plan(name, machine, wishes.workload)
    if as_json:
        from vram_llm.plan.emit import to_json

        click.echo(to_json(plan))
    else:
        from vram_llm.cli.tables import print_plan

        print_plan(plan)


def _show_machine(machine: "Machine", reserve_bytes: int, as_json: bool) -> None:
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(machine), indent=2))
    else:
        from vram_llm.cli.tables import print_machine

        print_machine(machine, reserve_bytes)
