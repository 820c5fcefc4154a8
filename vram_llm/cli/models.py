"""vram-llm models: what is on this disk, and the name each command takes for it."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from vram_llm.model.library import InstalledModel


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print JSON. Every size is bytes.")
def command(as_json: bool) -> None:
    """List models that other programs keep on this disk: Hugging Face, LM Studio, Ollama, llama.cpp.

    Each name can be given wherever a command takes MODEL.
    """
    from vram_llm.model import library

    kept = library.everything()
    if as_json:
        import msgspec

        rows = [
            {
                "name": one.name,
                "path": str(one.path),
                "bytes": one.size_bytes,
                "quantization": _quantization(one),
            }
            for one in kept
        ]
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
    elif kept:
        _print(kept)
    else:
        click.echo(
            "no model in the folders of Hugging Face, LM Studio, Ollama or llama.cpp; "
            "`vram-llm pull hf:ORG/REPO:Q4_K_M` fetches one, and any GGUF file can be named by its path"
        )


def _print(kept: "list[InstalledModel]") -> None:
    from vram_llm.units import format_bytes

    for one in kept:
        said = _quantization(one) or "unreadable"
        click.echo(f"{format_bytes(one.size_bytes):>10}  {said:<10}  {one.name}")


def _quantization(kept: "InstalledModel") -> str | None:
    """What the file says of itself; None where it cannot be read."""
    from vram_llm.errors import VramLLMError
    from vram_llm.workflows import detection

    try:
        return detection.analyze(str(kept.path)).quantization
    except VramLLMError:
        return None
