"""The workers of --ssh."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vram_llm.machine.worker_spec import WorkerSpec
    from vram_llm.planner.types import Plan


def ssh_workers(texts: tuple[str, ...], *, start: bool = False) -> "tuple[WorkerSpec, ...]":
    """The workers that --ssh names. Raises UsageError."""
    from vram_llm.errors import WorkerUnreachable
    from vram_llm.machine.worker_spec import worker_over_ssh

    try:
        return tuple(worker_over_ssh(text, start=start) for text in texts)
    except WorkerUnreachable as error:
        raise click.UsageError(f"--ssh: {error}") from error


def tunnel_commands(plan: "Plan") -> tuple[str, ...]:
    """The commands that make the tunnels of a plan, for programs that get its flags."""
    return tuple(
        dict.fromkeys(
            f"ssh -N -L {device.endpoint}:127.0.0.1:{device.tunnel.rpartition(':')[2]} "
            f"{device.tunnel.rpartition(':')[0]}"
            for device in plan.devices
            if device.tunnel is not None and device.id in plan.used
        )
    )
