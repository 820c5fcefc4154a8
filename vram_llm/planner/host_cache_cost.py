"""Times that layers on devices take more if the KV cache and states are on the host (`--no-kv-offload`).

With flash attention the device computes, and the cells in use are copied to it for each step or micro-batch.
Without, the host computes attention (docs/llama-cpp.md). States are copied there and back. Either way a layer
costs a split of the graph on both sides.
"""

from vram_llm.machine.assumed_speed import offload_link
from vram_llm.machine.types import Device, Machine
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.attention_size import cache_bytes
from vram_llm.planner.attention_times import AttentionTimes
from vram_llm.planner.layer_times import PlaceTimes
from vram_llm.planner.types import Context


class HostCacheCost:
    """Added seconds of layers on devices; `machine` has assumed speeds where they are unknown."""

    def __init__(self, profile: ModelProfile, context: Context, machine: Machine) -> None:
        self._profile, self._context = profile, context
        self._times = {device.id: PlaceTimes(device) for device in machine.devices}
        self._devices: dict[str, Device] = {device.id: device for device in machine.devices}
        self._host = PlaceTimes(machine.host)
        self._attention = AttentionTimes(profile, context, {device.kind for device in machine.devices})
        self._is_copied = not context.kv_offload and self._attention.is_flash

    def decode_s(self, device_id: str, layer: Layer, rows: int, depth: int) -> float:
        """Seconds added to a decode step of `rows` streams."""
        if self._context.kv_offload or device_id not in self._devices:
            return 0.0
        n_bytes = rows * cache_bytes(self._profile, self._context, layer, depth)
        own_s, host_s = (
            self._attention.decode_s(place, layer, rows, depth)
            for place in (self._times[device_id], self._host)
        )
        return self._added_s(device_id, own_s, host_s, n_bytes, rows * layer.recurrent_state_bytes)

    def prompt_s(self, device_id: str, layer: Layer, rows: int, depth: int) -> float:
        """Seconds added to a micro-batch of `rows` tokens of one sequence."""
        if self._context.kv_offload or device_id not in self._devices:
            return 0.0
        n_bytes = cache_bytes(self._profile, self._context, layer, depth)
        own_s, host_s = (
            self._attention.prompt_s(place, layer, rows, depth)
            for place in (self._times[device_id], self._host)
        )
        return self._added_s(device_id, own_s, host_s, n_bytes, layer.recurrent_state_bytes)

    def _added_s(
        self, device_id: str, own_s: float, host_s: float, n_bytes: float, state_bytes: float
    ) -> float:
        """Seconds for a cache of `n_bytes` that attention takes `own_s` or `host_s` for, and for states."""
        if not n_bytes and not state_bytes:
            return 0.0
        link = offload_link(self._devices[device_id])
        rate = (link.send_bytes_per_s or link.bytes_per_s).value
        attention_s = n_bytes / rate if self._is_copied else host_s - own_s
        splits_s = self._host.split_s + self._times[device_id].split_s
        return attention_s + 2 * state_bytes / rate + splits_s
