"""The four lines with which `serve` says that it is ready."""

import ipaddress
from typing import TYPE_CHECKING

from vram_llm.model.pooling import Pooling
from vram_llm.planner.placed_parts import in_words, listed
from vram_llm.planner.report.figures import rate
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import HOST, Context, Plan, SpeedEstimate
from vram_llm.units import format_bytes, format_count

if TYPE_CHECKING:
    from vram_llm.engine.model_info import ModelInfo
    from vram_llm.server.config import ServerConfig


def ready_lines(plan: Plan, info: "ModelInfo", config: "ServerConfig", port: int) -> tuple[str, ...]:
    """Each device's share; context and speed; address, key and model; how to send a request and stop."""
    address = server_address(config.host, port)
    return (
        f"{info.name}: {'; '.join(_shares(plan))}",
        f"{_use(plan.context)}; {_speed(plan)}",
        f"{config.scheme}://{address}/v1  key: {key_word(config)}  model: {_model_names(info, config)}",
        f"talk: {how_to_talk(plan.context.pooling, address, config)}; stop: Ctrl+C",
    )


def _shares(plan: Plan) -> list[str]:
    """Each device's share: "layers 0-15 and the output on CUDA0 (RTX 3090 Ti), 12.1 GiB"."""
    placement, estimate = plan.placement, plan.estimate
    names = {device.id: f"{device.id} ({device.name})" for device in plan.devices} | {HOST: "the host"}
    sizes = {device.id: device.total_bytes for device in estimate.devices} | {HOST: estimate.host.total_bytes}
    shares, first = list[str](), 0
    if placement.split_mode is SplitMode.TENSOR:
        parts_of = zip(placement.device_order, placement.tensor_split, strict=True)
        whole = sum(placement.tensor_split)
        shares += [
            f"{share / whole:.0%} of every layer on {names[device]}, {format_bytes(sizes[device])}"
            for device, share in parts_of
        ]
        return shares
    counts = (placement.cpu_layers, *placement.layers_per_device)
    for device, count in zip((HOST, *placement.device_order), counts, strict=True):
        parts = [f"layers {first}-{first + count - 1}" if count > 1 else f"layer {first}"] if count else []
        parts += ["the output"] if placement.output_device == device else []
        parts += [in_words(override) for override in placement.overrides if override.device == device]
        if parts:
            shares.append(f"{listed(parts)} on {names[device]}, {format_bytes(sizes[device])}")
        first += count
    for companion in plan.companions:
        where = f" on {names[companion.device]}" if companion.device is not None else ""
        shares.append(f"{companion.kind} {companion.name}{where}")
    if plan.context.n_mtp:
        shares.append(f"drafts of up to {plan.context.n_mtp} tokens by the model's MTP head")
    return shares


def _use(context: Context) -> str:
    """The purpose and the size of the context."""
    n_each = format_count(context.n_ctx_seq)
    if context.pooling is not None:
        what = "scores" if context.pooling is Pooling.RANK else f"embeddings ({context.pooling})"
        return f"{what} of texts of up to {n_each} tokens, {context.parallel} at a time"
    shared = "together" if context.kv_unified else f"of {n_each} each"
    kv_type = context.kv_type_k
    if context.kv_type_v != context.kv_type_k:
        kv_type += f" and {context.kv_type_v}"
    return (
        f"context of {format_count(context.n_ctx)} tokens for {context.parallel} sequences {shared}, "
        f"KV cache {kv_type}"
    )


def _speed(plan: Plan) -> str:
    """The expected speed, with the basis of each figure."""
    speed = plan.speed
    if speed is None:
        return "speed unknown: `vram-llm calibrate` measures the devices"
    if plan.context.pooling is not None:
        if speed.prompt_tokens_per_s is None:
            return "speed unknown: `vram-llm calibrate` measures the devices"
        return f"expected: {rate(speed.prompt_tokens_per_s)} tok/s ({speed.prompt_basis})"
    return f"expected: {rate(speed.tokens_per_s)} tok/s ({speed.basis}){_together(speed)}"


def _together(speed: SpeedEstimate) -> str:
    if speed.streams < 2 or speed.streams_tokens_per_s is None:
        return ""
    return f", {rate(speed.streams_tokens_per_s)} for {speed.streams} together ({speed.streams_basis})"


def server_address(hosts: str, port: int) -> str:
    """The address for a client on this computer: loopback if the server listens on all addresses."""
    host = hosts.partition(",")[0].strip()
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return f"{host}:{port}"
    if ip.is_unspecified:
        ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def key_word(config: "ServerConfig") -> str:
    """The key that clients send: "as given", or "any"."""
    return "as given" if config.needs_key else "any"


def _model_names(info: "ModelInfo", config: "ServerConfig") -> str:
    return ", ".join((info.name, *config.aliases)) if config.strict_model else "any"


def how_to_talk(pooling: Pooling | None, address: str, config: "ServerConfig") -> str:
    """Commands that send a request to a model with this pooling."""
    key = " -H 'Authorization: Bearer KEY'" if config.needs_key else ""
    curl = f"curl {config.scheme}://{address}/v1{{route}}{key} -d '{{body}}'"
    if pooling is Pooling.RANK:
        return curl.format(
            route="/rerank", body='{"query": "colour of grass", "documents": ["Grass is green."]}'
        )
    if pooling is Pooling.NONE:  # OpenAI's form has no place for a vector of each token
        curl = curl.replace("/v1{route}", "{route}")
    if pooling is not None:
        return curl.format(route="/embeddings", body='{"input": "Hello"}')
    where = address if config.ssl_certfile is None else f"https://{address}"
    chat = f"vram-llm chat {where}{' --api-key @FILE' if config.needs_key else ''}"
    body = '{"messages": [{"role": "user", "content": "Hello"}]}'
    return f"{chat} or {curl.format(route='/chat/completions', body=body)}"
