"""Flags on devices and layers, which `serve` takes by the ids of the devices."""

import re
from collections.abc import Callable, Mapping

import click

from vram_llm.cli.llama_server_line.read_line import Given
from vram_llm.cli.llama_server_line.translation import Translation
from vram_llm.planner.types import HOST

_N_UBATCH, _N_PARALLEL = 512, 4  # llama-server's defaults


def chosen_ids(found: Translation) -> tuple[str, ...]:
    """The ids of the devices that the line may use, in llama.cpp's order."""
    given = found.line.last("-dev")
    if given is None:
        return found.devices.ids
    ids = (found.devices.id_of(name.strip()) for name in str(given.value).split(","))
    return tuple(each for each in ids if each != HOST)


def _device(found: Translation, _given: Given) -> None:
    if not _is_on_one_device(found):
        found.add("--device", ",".join(chosen_ids(found)) or "none")


def _is_on_one_device(found: Translation) -> bool:
    mode = found.line.last("-sm")
    return mode is not None and mode.value == "none"


def _n_gpu_layers(found: Translation, given: Given) -> None:
    found.add("--n-gpu-layers", str(given.value))


def _tensor_split(found: Translation, given: Given) -> None:
    """Shares in llama.cpp's order of the devices; those past the last device are not used."""
    texts = [text for text in re.split(r"[,/]+", str(given.value)) if text]
    ids = chosen_ids(found)
    try:
        shares = [float(text) for text in texts]
    except ValueError:
        raise click.UsageError(f"{given}: shares are numbers with commas between, like 3,1") from None
    if _is_on_one_device(found):
        found.ignored.append(f"ignored: {given}: -sm none uses one device")
    elif not any(shares[: len(ids) or None]):
        found.ignored.append(f"ignored: {given}: no device has a share, so llama.cpp splits by itself")
    elif not ids:
        found.add("--tensor-split", ",".join(texts))
    else:
        named = dict(zip(ids, texts, strict=False))
        found.add("--tensor-split", ",".join(f"{name}={share}" for name, share in named.items()))


def _one_device(found: Translation, given: Given) -> None:
    """-sm none: the model is on the device with the number of -mg."""
    main = found.line.last("-mg")
    number = 0 if main is None else int(main.value)
    ids = chosen_ids(found)
    if number < 0:
        found.add("--device", "none")
    elif ids and number >= len(ids):
        raise click.UsageError(f"-mg {number}: there are {len(ids)} devices, numbered from 0")
    elif ids:
        found.add("--device", ids[number])
    else:
        found.ignored.append(f"ignored: {given}: there is no device")


def _main_gpu(found: Translation, given: Given) -> None:
    if not _is_on_one_device(found):
        found.ignored.append(f"ignored: {given}: llama.cpp uses it with -sm none and row alone")


def _override_tensor(found: Translation, given: Given) -> None:
    parts = []
    for part in str(given.value).split(","):
        pattern, equals, name = part.partition("=")
        if not (pattern and equals and name):
            raise click.UsageError(f"{given.name}: {part!r} is no PATTERN=BUFFER_TYPE")
        device = found.devices.id_of(name)
        parts.append(f"{pattern}={'CPU' if device == HOST else device}")
    found.add("--override-tensor", ",".join(parts))


def _fit_target(found: Translation, given: Given) -> None:
    margins = str(given.value).split(",")
    if not all(margin.isdecimal() for margin in margins):
        raise click.UsageError(f"{given}: margins are whole numbers of MiB")
    found.add("--reserve-mib", str(max(map(int, margins))))


def _context_per_slot(found: Translation, given: Given) -> None:
    if found.line.last("-c") is not None:
        raise click.UsageError(f"{given}: a sequence may use all of the context that -c gives; leave one out")
    found.add("--n-ctx", str(int(given.value) * _n_parallel(found)))


def _micro_batch(found: Translation, given: Given) -> None:
    batch = found.line.last("-b")
    n_tokens = int(given.value) if batch is None else min(int(given.value), int(batch.value))
    found.add("--n-ubatch", str(n_tokens))


def _n_parallel(found: Translation) -> int:
    given = found.line.last("-np")
    n_parallel = _N_PARALLEL if given is None else int(given.value)
    return n_parallel if n_parallel > 0 else _N_PARALLEL


def _parallel(found: Translation, given: Given) -> None:
    if int(given.value) == 0:
        raise click.UsageError(f"{given}: a server has at least one slot; -1 leaves the number open")
    found.add("--parallel", str(_n_parallel(found)))


def _kv_unified(found: Translation, given: Given) -> None:
    found.add("--kv-unified" if given.value is True or not _has_slots(found) else "--no-kv-unified")


def _has_slots(found: Translation) -> bool:
    """Whether -np gives a number; without one llama-server has four slots and one cache for them."""
    given = found.line.last("-np")
    return given is not None and int(given.value) > 0


def _split_by_free_memory(found: Translation) -> None:
    """llama.cpp's own split, for which the patterns of -ot were written (llama_model_base::load_tensors)."""
    ids, free_bytes = chosen_ids(found), found.devices.free_bytes
    if len(ids) > 1 and all(free_bytes.get(each) for each in ids):
        found.add("--tensor-split", ",".join(f"{each}={free_bytes[each]}" for each in ids))


PLACEMENT_RULES: Mapping[str, Callable[[Translation, Given], None]] = {
    "device": _device,
    "n_gpu_layers": _n_gpu_layers,
    "tensor_split": _tensor_split,
    "one_device": _one_device,
    "main_gpu": _main_gpu,
    "override_tensor": _override_tensor,
    "fit_target": _fit_target,
    "context_per_slot": _context_per_slot,
    "micro_batch": _micro_batch,
    "parallel": _parallel,
    "kv_unified": _kv_unified,
}


def finish_placement(found: Translation) -> None:
    """Add llama-server's values for what the line leaves out: each slot's own cache, and its buffers' sizes.

    A line that places weights gets llama-server's micro-batch, no samplers on devices, and prompts computed
    on a device with weights of the host.
    """
    line = found.line
    if line.last("-ot") is not None and line.last("-ts") is None and not _is_on_one_device(found):
        _split_by_free_memory(found)
    if line.last("-ts") is not None and not any(map(line.last, ("-ot", "-cmoe", "-ncmoe", "-ncffn"))):
        found.add("--override-tensor", "none")
    if _has_slots(found) and _n_parallel(found) > 1 and line.last("-kvu") is None:
        found.add("--no-kv-unified")
    if not found.places_weights:
        return
    if line.last("-ub") is None:
        batch = line.last("-b")
        n_tokens = _N_UBATCH if batch is None else min(_N_UBATCH, int(batch.value))
        found.add("--n-ubatch", str(n_tokens))
    if line.last("-bs") is None:
        found.add("--backend-sampling", "off")
    if line.last("--op-offload") is None:
        found.add("--op-offload")
