"""The lines with which `serve` says that a fleet is ready: each model's place, the address, how to ask."""

from typing import TYPE_CHECKING

from vram_llm.cli.ready_lines import how_to_talk, key_word, server_address
from vram_llm.planner.types import HOST
from vram_llm.units import format_bytes, format_count

if TYPE_CHECKING:
    from vram_llm.planner.fleet.types import FleetPlan, PackedModel
    from vram_llm.server.config import ServerConfig


def fleet_ready_lines(plan: "FleetPlan", config: "ServerConfig", port: int) -> tuple[str, ...]:
    """A line for each model, and the two of the server. Bytes are planned."""
    address = server_address(config.host, port)
    names = ", ".join(name for model in plan.models for name in (model.spec.name, *model.spec.aliases))
    pooling = plan.models[0].replicas[0].plan.context.pooling
    return (
        *(_place(model, is_loaded=model.spec.name in plan.resident_at_start) for model in plan.models),
        f"{config.scheme}://{address}/v1  key: {key_word(config)}  models: {names}",
        f"talk: {how_to_talk(pooling, address, config)}; stop: Ctrl+C",
    )


def _place(model: "PackedModel", *, is_loaded: bool) -> str:
    """A model's place: "chat: loaded, 12.1 GiB on GPU0, context of 32k tokens"."""
    uses = model.uses
    places = [f"{format_bytes(uses[i])} on {'the host' if i == HOST else i}" for i in uses if uses[i]]
    copies = f"{len(model.replicas)} replicas, " if len(model.replicas) > 1 else ""
    when = "loaded" if is_loaded else "loaded when asked for"
    n_ctx = format_count(model.replicas[0].plan.context.n_ctx_seq)
    return f"{model.spec.name}: {when}, {copies}{', '.join(places)}, context of {n_ctx} tokens"
