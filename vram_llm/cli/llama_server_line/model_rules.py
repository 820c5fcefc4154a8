"""Which model, which adapters: files, repositories of a hub, folders and presets."""

from collections.abc import Callable, Mapping

import click

from vram_llm.cli.llama_server_line.csv_row import csv_row
from vram_llm.cli.llama_server_line.read_line import Given, ReadLine
from vram_llm.cli.llama_server_line.translation import Translation

_USUAL = "Q4_K_M"  # llama-server's default quantisation of a repository


def repository(text: str, file: str | None = None) -> str:
    """The `hf:` name of "ORG/REPO[:QUANT]", or of a file in it. Raises UsageError."""
    name, _, quantization = text.partition(":")
    if name.count("/") != 1 or not all(name.split("/")):
        raise click.UsageError(f"-hf {text}: write it like ORG/REPO:{_USUAL}")
    return f"hf:{name}/{file}" if file else f"hf:{name}:{quantization or _USUAL}"


def model_of(line: ReadLine) -> str | None:
    """The one model of a line, as `serve` takes it; None: llama-server would be a router."""
    repo, file, url, path = map(line.last, ("-hf", "-hff", "-mu", "-m"))
    if repo is not None:
        return repository(str(repo.value), None if file is None else str(file.value))
    given = url or path
    return None if given is None else str(given.value) or None


def is_router(line: ReadLine) -> bool:
    """Whether llama-server would serve several models: no model is named (tools/server/server.cpp)."""
    return model_of(line) is None


def _read_later(_found: Translation, _given: Given) -> None:
    """`finish_model` reads it."""


def _hf_token(found: Translation, given: Given) -> None:
    """One that is in the environment stays there, so that --print does not show it."""
    if not given.is_variable:
        found.environment["HF_TOKEN"] = str(given.value)


def _offline(found: Translation, _given: Given) -> None:
    found.environment["HF_HUB_OFFLINE"] = "1"


def _lora(found: Translation, given: Given) -> None:
    applied = found.line.last("--lora-init-without-apply") is None
    for part in csv_row(str(given.value)):
        if not applied:
            path = part.rpartition(":")[0] if given.flag.names[0] == "--lora-scaled" else part
            found.add("--lora", f"{path}:0")
        else:
            found.add("--lora", part)


def _mmproj_device(found: Translation, given: Given) -> None:
    is_off = found.line.last("--mmproj-offload")
    if is_off is None or is_off.value:
        found.add("--mmproj-device", found.devices.id_of(str(given.value)))


def _layer_range(found: Translation, given: Given) -> None:
    """Of zero or less, llama-server makes the first or the last layer."""
    try:
        first, last = (int(text) for text in str(given.value).split())
    except ValueError:
        raise click.UsageError(f"{given}: it has two numbers of layers") from None
    has_vectors = any(found.line.last(name) for name in ("--control-vector", "--control-vector-scaled"))
    if has_vectors and (first > 1 or last > 0):
        found.add("--control-vector-layer-range", f"{max(first, 1)}-{last if last > 0 else _MAX_LAYERS}")


def _router_only(found: Translation, given: Given) -> None:
    if not is_router(found.line):
        found.ignored.append(f"ignored: {given}: the line names one model")


_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS

MODEL_RULES: Mapping[str, Callable[[Translation, Given], None]] = {
    "model": _read_later,
    "hf_token": _hf_token,
    "offline": _offline,
    "lora": _lora,
    "layer_range": _layer_range,
    "mmproj_device": _mmproj_device,
    "lora_without_apply": _read_later,
    "models_dir": _router_only,
    "models_preset": _router_only,
}


def finish_model(found: Translation) -> None:
    """Put the model first. llama-server looks for a projector in repositories alone, not in folders."""
    line = found.line
    model = model_of(line)
    if model is None:
        return
    found.words[:0] = ["--model", model]
    looks = line.last("-hf") is not None
    if found.places_weights and not looks and line.last("-mm") is None and "--no-mmproj" not in found.words:
        found.add("--no-mmproj")
