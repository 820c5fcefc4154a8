"""The exact meter: llama.cpp itself computes the bytes of a placement, on devices that need not exist.

A child process loads the model's header onto virtual devices, with `llama_model_params.no_alloc`. llama.cpp
assigns layers, sizes caches and reserves compute graphs as in a real load, so the bytes are exactly those of
its own buffers. A driver, its libraries and their pools take memory in addition: planner.overhead.
"""

import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from vram_llm.errors import EngineDied, ModelRefused, NotBuilt
from vram_llm.llama.dryrun.wire import (
    LENGTH,
    DryRunMode,
    DryRunReply,
    DryRunRequest,
    HeadRequest,
    ProjectorRequest,
    write,
)
from vram_llm.machine.types import Device, DeviceKind, Host
from vram_llm.model.header import Header
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.model.strip import overrides_of_stripped, write_stripped
from vram_llm.planner.estimates import DeviceEstimate, Estimate, HostEstimate, MemoryUse
from vram_llm.planner.overhead import overhead_bytes
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import Context, FlashAttention, Placement
from vram_llm.stderr_reason import environment, last_words

METHOD = "dry run"

_START_TIMEOUT_S = 120.0
# Their back ends reorder operations (graph_optimize), which changes the tensors that live at the same time.
_GRAPH_REORDERING_KINDS = frozenset({DeviceKind.VULKAN, DeviceKind.METAL})
_MESSAGE = re.compile(r'GGML_ASSERT\(.*&& "(.+)"\)')
_MAX_CRASHES = 2  # of the child process, for one placement


class DryRun:
    """A child process that stays alive and places models. A context manager; `close` ends the process.

    The constructor starts the process and does not wait. `check`, or the first request, raises NotBuilt with
    the reason if this llama.cpp cannot do dry runs or fails the self-test. Callers then use the analytic
    meter.
    """

    def __init__(self, *, timeout_s: float = 60.0) -> None:
        """`timeout_s` is the limit for one placement, in seconds."""
        self._timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="vram-llm-")
        self._stripped: dict[int, tuple[Header, Path]] = {}  # by the id of the header
        self._n_crashes: Counter[tuple[Placement, Context]] = Counter()
        self._replies: dict[bytes, DryRunReply] = {}  # for virtual devices, by the encoded request
        self._can_use_real_devices = True  # until one of them ends the process
        self._process: _DryRunProcess | None = _DryRunProcess(Path(self._folder.name))

    def check(self) -> None:
        """Wait for the self-test of the child process. Raises NotBuilt if it fails."""
        if self._process is None:
            self._process = _DryRunProcess(Path(self._folder.name))
        try:
            self._process.check()
        except NotBuilt:
            self._process.close()
            self._process = None
            raise

    def meter(
        self,
        header: Header,
        context: Context,
        devices: Sequence[Device],
        host: Host,
        reserve_bytes: int,
        *,
        mode: DryRunMode = DryRunMode.VIRTUAL,
        adapters: Sequence[tuple[Header, float]] = (),
    ) -> "DryRunMeter":
        """A meter for placements of one model in one context, with LoRA `adapters` at their scales.

        In the mode REAL all devices must be in this machine. In the mode VIRTUAL, placements on Vulkan and
        Metal devices of this machine are measured as in REAL, if that is possible (`measure_on_best`).

        REAL gives llama.cpp's own measure, without graph splits. Its compute bytes differ from a real load's
        if a device gets its input from another one, by up to copies x n_embd x n_ubatch x 4 bytes: they are
        larger with pipeline copies, and sometimes smaller without (reservation.py).
        """
        stripped = tuple((str(self._stripped_copy(adapter)), scale) for adapter, scale in adapters)
        return DryRunMeter(
            self,
            self._stripped_copy(header),
            context,
            tuple(devices),
            host,
            reserve_bytes,
            mode,
            stripped,
            overrides_of_stripped(header),
        )

    def projector(self, header: Header, device: Device | None, flash_attn: FlashAttention) -> DryRunReply:
        """The bytes of a projector in libmtmd on `device` and on the host; on the host alone if that is None.

        All bytes are given as compute: those of its weights, without padding, and of its compute buffers.
        Raises ModelRefused, NotBuilt, EngineDied if the process ends or does not reply in time.
        """
        reply = self._send(ProjectorRequest(str(self._stripped_copy(header)), device, flash_attn))
        if reply.refusal:
            raise (NotBuilt if reply.not_built else ModelRefused)(f"{header.path.name}: {reply.refusal}")
        return reply

    def head_refusal(self, header: Header, n_mtp: int) -> str | None:
        """Why llama.cpp cannot draft `n_mtp` tokens with the MTP head of a model; None if it can.

        Raises NotBuilt.
        """
        request = HeadRequest(str(self._stripped_copy(header)), n_mtp, list(overrides_of_stripped(header)))
        try:
            reply = self._send(request)
        except EngineDied as error:
            told = _MESSAGE.search(str(error))
            return str(error) if told is None else f"llama.cpp says: {told[1]}"
        if reply.not_built:
            raise NotBuilt(reply.refusal)
        return reply.refusal.replace(request.path, header.path.name) or None

    def measure(self, request: DryRunRequest) -> DryRunReply:
        """The bytes of the requested placement.

        Raises ModelRefused if llama.cpp refuses it, EngineDied if the process ends or does not reply in time,
        NotBuilt as `check`.
        """
        encoded = msgspec.json.encode(request)
        if encoded in self._replies:
            return self._replies[encoded]
        key = (request.placement, request.context)
        if self._n_crashes[key] >= _MAX_CRASHES:
            raise EngineDied("llama.cpp ended twice over this placement, so it cannot be measured")
        try:
            reply = self._send(request)
        except EngineDied:
            self._n_crashes[key] += 1
            raise
        if reply.refusal:
            raise ModelRefused(reply.refusal.replace(request.path, self._model_name(request.path)))
        if request.mode is DryRunMode.VIRTUAL:
            self._replies[encoded] = reply
        return reply

    def measure_on_best(self, request: DryRunRequest) -> DryRunReply:
        """`measure` on real devices if virtual ones are less exact for this request, else on virtual ones.

        Raises the same errors. A failure of real devices is not raised: virtual ones replace them.
        """
        if self._can_use_real_devices and _needs_real_devices(request):
            try:
                return self.measure(msgspec.structs.replace(request, mode=DryRunMode.REAL))
            except EngineDied:
                self._can_use_real_devices = False
            except ModelRefused:  # the device is gone, or virtual devices refuse the model too
                pass
        return self.measure(request)

    def _model_name(self, stripped: str) -> str:
        """The name of the model file whose stripped copy has the path `stripped`."""
        return next((h.path.name for h, path in self._stripped.values() if str(path) == stripped), stripped)

    def _send(self, request: DryRunRequest | ProjectorRequest | HeadRequest) -> DryRunReply:
        self.check()
        assert self._process is not None
        try:
            return self._process.send(request, self._timeout_s)
        except EngineDied:
            self._process.close()
            self._process = None
            raise

    def close(self) -> None:
        """End the child process and remove its files."""
        if self._process is not None:
            self._process.close()
            self._process = None
        self._folder.cleanup()

    def __enter__(self) -> "DryRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stripped_copy(self, header: Header) -> Path:
        """The path of a copy of the header without its vocabulary. It is written once."""
        if id(header) not in self._stripped:
            path = Path(self._folder.name) / f"{len(self._stripped)}.gguf"
            self._stripped[id(header)] = (header, write_stripped(header, path))
        return self._stripped[id(header)][1]


@dataclass(frozen=True, slots=True)
class DryRunMeter:
    """Measures placements of one model in one context; a Meter of the planner. Call it with a Placement."""

    _dry_run: DryRun
    _path: Path
    _context: Context
    _devices: tuple[Device, ...]
    _host: Host
    _reserve_bytes: int
    _mode: DryRunMode
    _adapters: tuple[tuple[str, float], ...]
    _kv_overrides: tuple[MetadataOverride, ...]

    def __call__(self, placement: Placement) -> Estimate:
        """The estimate for a placement. Raises ModelRefused, EngineDied and NotBuilt as DryRun.measure."""
        by_id = {device.id: device for device in self._devices}
        devices = [by_id[device_id] for device_id in placement.device_order]
        reply = self._dry_run.measure_on_best(
            DryRunRequest(
                str(self._path),
                self._context,
                placement,
                devices,
                self._mode,
                list(self._adapters),
                list(self._kv_overrides),
            )
        )
        return Estimate(
            method=METHOD,
            devices=tuple(
                self._device_estimate(device, use) for device, use in zip(devices, reply.devices, strict=True)
            ),
            host=HostEstimate.of(reply.host, budget_bytes=self._host.budget_bytes(self._reserve_bytes)),
            graph_splits=reply.graph_splits,
            prompt_graph_splits=reply.prompt_graph_splits,
        )

    def _device_estimate(self, device: Device, use: MemoryUse) -> DeviceEstimate:
        return DeviceEstimate.of(
            device.id,
            use,
            overhead_bytes=overhead_bytes(device),
            budget_bytes=device.budget_bytes(self._reserve_bytes),
        )


def _needs_real_devices(request: DryRunRequest) -> bool:
    """Whether all devices are in this machine, and one of them reorders graphs by rules of its own.

    It is false with adapters: llama.cpp would load their weights, and a stripped copy has none.
    """
    devices = request.devices
    are_local = all(device.ggml_name is not None and not device.what_if for device in devices)
    can_be_real = are_local and not request.adapters and request.mode is DryRunMode.VIRTUAL
    can_be_real &= request.placement.split_mode is SplitMode.LAYER
    return can_be_real and any(device.kind in _GRAPH_REORDERING_KINDS for device in devices)


class _DryRunProcess:
    """The child process that runs llama.cpp (worker.py)."""

    def __init__(self, folder: Path) -> None:
        """Start the process; its standard error goes to a file in `folder`."""
        self._is_checked = False
        self._stderr = (folder / "stderr").open("w+b")
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "vram_llm.llama.dryrun.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment(),
        )  # fmt: skip

    def check(self) -> None:
        """Wait for the result of the self-test. Raises NotBuilt if it fails or the process ends."""
        if self._is_checked:
            return
        try:
            self_test = self._receive(_START_TIMEOUT_S)
        except EngineDied as error:
            raise NotBuilt(f"llama.cpp cannot be asked for a dry run: {error}") from error
        if self_test.refusal:
            raise NotBuilt(self_test.refusal)
        self._is_checked = True

    def send(self, request: DryRunRequest | ProjectorRequest | HeadRequest, timeout_s: float) -> DryRunReply:
        """Send a request and wait for its reply. Raises EngineDied if none comes within `timeout_s`."""
        try:
            write(_pipe(self._popen.stdin), request)
        except OSError as error:
            raise EngineDied("the process that asks llama.cpp has ended") from error
        return self._receive(timeout_s)

    def close(self) -> None:
        """End the process."""
        self._popen.kill()
        self._popen.communicate()
        self._stderr.close()

    def _receive(self, timeout_s: float) -> DryRunReply:
        deadline = time.monotonic() + timeout_s
        size: int = LENGTH.unpack(self._read(LENGTH.size, deadline))[0]
        return msgspec.json.decode(self._read(size, deadline), type=DryRunReply)

    def _read(self, size: int, deadline: float) -> bytes:
        descriptor, data = _pipe(self._popen.stdout).fileno(), b""
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while len(data) < size:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise EngineDied("llama.cpp did not say in time how it would place the model")
                chunk = os.read(descriptor, size - len(data))
                if not chunk:
                    raise EngineDied(
                        f"llama.cpp ended where it was asked for a dry run: {last_words(self._stderr)}"
                    )
                data += chunk
        return data


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
