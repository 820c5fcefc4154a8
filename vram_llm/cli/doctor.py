"""vram-llm doctor: what is on this computer, what is wrong, and what to do."""

from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.text.lines import Line, Style, line, wrap

if TYPE_CHECKING:
    from vram_llm.workflows.diagnosis import Diagnosis

EXIT_STOPS_SERVING = 1
_LEAST_COLUMNS = 24  # of a value on narrow terminals


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON. Every size is bytes.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show what this computer has for serving models, what is wrong, and what to do.

    The report is made to be pasted into an issue: names of users and computers, paths below a home, and keys
    are left out. Exits with 1 if something is wrong that stops serving.
    """
    from vram_llm.workflows.diagnosis import diagnose

    diagnosis = diagnose()
    if as_json:
        from vram_llm.cli.json_document import document

        click.echo(document(diagnosis))
    else:
        terminal.show(report(diagnosis, terminal.width()))
    if diagnosis.stops_serving:
        ctx.exit(EXIT_STOPS_SERVING)


def report(diagnosis: "Diagnosis", width: int) -> list[Line]:
    """The report in lines of at most `width`."""
    rows = [*_software(diagnosis), *_host(diagnosis), *_devices(diagnosis)]
    labels = max(len(label) for label, _ in rows) + 2
    lines: list[Line] = []
    for label, value in rows:
        for i, part in enumerate(wrap(value, max(width - labels, _LEAST_COLUMNS))):
            lines.append((*line((label if i == 0 else "").ljust(labels), Style.DIM), *part))
    lines.append(())
    if not diagnosis.warnings:
        lines += wrap("Nothing is wrong.", width, Style.GOOD)
    for warning in sorted(diagnosis.warnings, key=lambda warning: not warning.stops_serving):
        style = Style.BAD if warning.stops_serving else Style.TIGHT
        mark = "stops serving: " if warning.stops_serving else "warning: "
        lines += wrap(mark + warning.text, width, style, "  ")
    for note in diagnosis.notes:
        lines += wrap(f"note: {note}", width, Style.DIM, "  ")
    return lines


def _software(diagnosis: "Diagnosis") -> list[tuple[str, str]]:
    system, build = diagnosis.system, diagnosis.llama_cpp
    versions = {name: version or "missing" for name, version in diagnosis.packages.items()}
    places = [
        place for place, there in (("a container", system.is_container), ("WSL", system.is_wsl)) if there
    ]
    rows = [
        ("vram-llm", versions.pop("vram-llm", "missing")),
        ("system", ", ".join(filter(None, [system.name, system.libc, *(f"in {place}" for place in places)]))),
        ("Python", system.python),
        ("packages", " ".join(f"{name}=={version}" for name, version in versions.items())),
        ("llama.cpp", f"back ends {', '.join(build.back_ends)}" if build.loads else "does not load"),
    ]
    for back_end, features in build.features.items():
        on = [name if value == "1" else f"{name}={value}" for name, value in features.items()]
        rows.append((f"  {back_end}", " ".join(on)))
    if build.libraries:
        rows.append(("  libraries", ", ".join(build.libraries)))
    if diagnosis.nvidia_driver is None:
        rows.append(("driver", "no NVIDIA driver"))
    else:
        nccl = "llama.cpp uses NCCL" if build.uses_nccl else "llama.cpp uses no NCCL"
        cuda = f"CUDA {diagnosis.cuda or 'unknown'}"
        rows.append(("driver", f"NVIDIA {diagnosis.nvidia_driver}, up to {cuda}; {nccl}"))
    if diagnosis.settings:
        rows.append(("set", " ".join(f"${name}" for name in diagnosis.settings)))
    return rows


def _host(diagnosis: "Diagnosis") -> list[tuple[str, str]]:
    from vram_llm.units import format_bytes

    def size(n_bytes: int | None) -> str:
        return "unlimited" if n_bytes is None else format_bytes(n_bytes)

    def count(n: int | None) -> str:
        return "unlimited" if n is None else f"{n:,}"

    host, limits = diagnosis.host, diagnosis.limits
    cores = f"{host.cores} cores" + (f" ({host.physical_cores} physical)" if host.physical_cores else "")
    nodes = f"{host.numa_nodes} NUMA nodes" if (host.numa_nodes or 1) > 1 else ""
    processor = [host.cpu_name or "unknown", cores, nodes, " ".join(host.instructions or ())]
    memory = f"{size(host.available_bytes)} of {size(host.total_bytes)} available"
    swap = f"swap {size(host.swap_used_bytes)} of {size(host.swap_total_bytes)} in use"
    cgroup = f"memory {size(limits.cgroup_memory_bytes)}, cores {count(limits.cgroup_cores)}"
    return [
        ("processor", ", ".join(filter(None, processor))),
        ("memory", ", ".join(filter(None, [memory, host.memory_kind, swap]))),
        ("cgroups", cgroup),
        (
            "ulimit",
            f"addresses {size(limits.address_space_bytes)}, locked memory {size(limits.locked_bytes)}, "
            f"open files {count(limits.open_files)}, processes {count(limits.processes)}",
        ),
    ]


def _devices(diagnosis: "Diagnosis") -> list[tuple[str, str]]:
    from vram_llm.text.names import short_name
    from vram_llm.units import format_bytes

    rows = []
    for device in diagnosis.devices:
        facts = [
            short_name(device.name),
            f"{format_bytes(device.free_bytes)} of {format_bytes(device.total_bytes)} free",
            device.kind,
            device.compute_capability and f"compute capability {device.compute_capability}",
            device.pci_bus_id and f"PCI {device.pci_bus_id}",
            None if device.pcie is None else str(device.pcie),
        ]
        rows.append((device.id, ", ".join(filter(None, facts))))
    return rows or [("devices", "none; models run on the processor")]
