"""The exact meter: llama.cpp itself computes the bytes of a placement, on devices that need not exist.

A child process loads the model's header with `llama_model_params.no_alloc` onto virtual devices:
the real layer assignment, the real cache sizing and the real reservation of compute graphs, to the byte what
a real load takes in llama.cpp's own buffers. Not in it is what a driver, its libraries and their pools take;
that is plan.memory.overhead_bytes.
"""

import os
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
    DryRunQuestion,
    DryRunReply,
    ProjectorQuestion,
    write,
)
from vram_llm.machine.types import Device, DeviceKind, Host
from vram_llm.model.header import Header
from vram_llm.model.strip import write_stripped
from vram_llm.planner.estimates import DeviceEstimate, Estimate, HostEstimate, MemoryUse
from vram_llm.planner.overhead import overhead_bytes
from vram_llm.planner.types import Context, FlashAttention, Placement
from vram_llm.stderr_reason import environment, last_words

METHOD = "dry run"

_START_TIMEOUT_S = 60.0
# ggml_backend_i.graph_optimize moves operations, and with them what lives at the same time.
_REORDERING = frozenset({DeviceKind.VULKAN, DeviceKind.METAL})
_TRIES = 2  # of a placement that makes the child end


class DryRun:
    """A warm child process that places models. A context manager; `close` ends the child.

    Making one starts the child and does not wait. `check`, or the first question, raises NotBuilt, with
    the reason, where this llama.cpp cannot be asked or answers a known question wrongly: then the analytic
    meter is what is left.
    """

    def __init__(self, *, timeout_s: float = 20.0) -> None:
        """`timeout_s` is the limit for one placement."""
        self._timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="vram-llm-")
        self._stripped: dict[int, tuple[Header, Path]] = {}
        self._ended: Counter[tuple[Placement, Context]] = Counter()
        self._asks_devices = True  # until one of them ends the child
        self._child: _Child | None = _Child(Path(self._folder.name))

    def check(self) -> None:
        """Wait for the child's self-test. Raises NotBuilt."""
        if self._child is None:
            self._child = _Child(Path(self._folder.name))
        try:
            self._child.check()
        except NotBuilt:
            self._child.close()
            self._child = None
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
        """A Meter for placements of one model in one context, with LoRA `adapters` at their scales.

        In the mode REAL all devices must be in this machine; in VIRTUAL, those of Vulkan and Metal that are
        in it are asked themselves (`ask_devices`). REAL gives llama.cpp's own measure: where a device gets
        its input from another one, it differs from a real load's compute by up to copies x n_embd x ubatch x
        4 bytes; it is above it with pipeline copies and sometimes below it without (see reservation.py). It
        counts no graph splits.
        """
        stripped = tuple((str(self._strip(each)), scale) for each, scale in adapters)
        return DryRunMeter(
            self,
            self._strip(header),
            context,
            tuple(devices),
            host,
            reserve_bytes,
            mode,
            stripped,
        )

    def projector(self, header: Header, device: Device | None, flash_attn: FlashAttention) -> DryRunReply:
        """Bytes that libmtmd would hold for a projector: unpadded weights and compute, both as compute.

        On `device`, if there is one, and on the host. Raises ModelRefused, EngineDied, NotBuilt.
        """
        reply = self._send(ProjectorQuestion(str(self._strip(header)), device, flash_attn))
        if reply.refusal:
            raise (NotBuilt if reply.not_built else ModelRefused)(f"{header.path.name}: {reply.refusal}")
        return reply

    def ask(self, question: DryRunQuestion) -> DryRunReply:
        """llama.cpp's answer. Raises ModelRefused, EngineDied if it aborts or hangs, BadPlan."""
        asked = (question.placement, question.context)
        if self._ended[asked] >= _TRIES:
            raise EngineDied("llama.cpp ended twice over this placement, so it cannot be measured")
        try:
            reply = self._send(question)
        except EngineDied:
            self._ended[asked] += 1
            raise
        if reply.refusal:
            raise ModelRefused(reply.refusal.replace(question.path, self._name_of(question.path)))
        return reply

    def ask_devices(self, question: DryRunQuestion) -> DryRunReply:
        """Like `ask`, but of the real devices if they report more than virtual ones. Raises the same."""
        if self._asks_devices and _tell_more(question):
            try:
                return self.ask(msgspec.structs.replace(question, mode=DryRunMode.REAL))
            except EngineDied:
                self._asks_devices = False
            except ModelRefused:  # the device is gone, or virtual devices refuse the model too
                pass
        return self.ask(question)

    def _name_of(self, stripped: str) -> str:
        """The name of the model file that a stripped copy was made from."""
        return next((h.path.name for h, path in self._stripped.values() if str(path) == stripped), stripped)

    def _send(self, question: DryRunQuestion | ProjectorQuestion) -> DryRunReply:
        self.check()
        assert self._child is not None
        try:
            return self._child.ask(question, self._timeout_s)
        except EngineDied:
            self._child.close()
            self._child = None
            raise

    def close(self) -> None:
        """End the child and remove its files."""
        if self._child is not None:
            self._child.close()
            self._child = None
        self._folder.cleanup()

    def __enter__(self) -> "DryRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _strip(self, header: Header) -> Path:
        """The path of the header's copy without vocabulary, which is written once."""
        if id(header) not in self._stripped:
            path = Path(self._folder.name) / f"{len(self._stripped)}.gguf"
            self._stripped[id(header)] = (header, write_stripped(header, path))
        return self._stripped[id(header)][1]


@dataclass(frozen=True, slots=True)
class DryRunMeter:
    """Measures placements of one model in one context. Call it with a Placement."""

    _dry: DryRun
    _path: Path
    _context: Context
    _devices: tuple[Device, ...]
    _host: Host
    _reserve_bytes: int
    _mode: DryRunMode
    _adapters: tuple[tuple[str, float], ...]

    def __call__(self, placement: Placement) -> Estimate:
        """The estimate for a placement. Raises what DryRun.ask raises."""
        by_id = {device.id: device for device in self._devices}
        devices = [by_id[device_id] for device_id in placement.device_order]
        reply = self._dry.ask_devices(
            DryRunQuestion(
                str(self._path),
                self._context,
                placement,
                devices,
                self._mode,
                list(self._adapters),
            )
        )
        return Estimate(
            method=METHOD,
            devices=tuple(self._device(*pair) for pair in zip(devices, reply.devices, strict=True)),
            host=HostEstimate.of(reply.host, budget_bytes=self._host.budget_bytes(self._reserve_bytes)),
            graph_splits=reply.graph_splits,
            prompt_graph_splits=reply.prompt_graph_splits,
        )

    def _device(self, device: Device, use: MemoryUse) -> DeviceEstimate:
        return DeviceEstimate.of(
            device.id,
            use,
            overhead_bytes=overhead_bytes(device),
            budget_bytes=device.budget_bytes(self._reserve_bytes),
        )


def _tell_more(question: DryRunQuestion) -> bool:
    """Whether the devices are here, and one is of a kind that orders the graph as only it knows.

    Adapters would be loaded onto them with bytes that a dry run does not have.
    """
    devices = question.devices
    are_here = all(each.ggml_name is not None and not each.what_if for each in devices)
    plain = not question.adapters and question.mode is DryRunMode.VIRTUAL
    return are_here and plain and any(each.kind in _REORDERING for each in devices)


class _Child:
    """The child process that runs llama.cpp."""

    def __init__(self, folder: Path) -> None:
        """Start it."""
        self._is_checked = False
        self._said = (folder / "stderr").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vram_llm.llama.dryrun.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment(),
        )  # fmt: skip

    def check(self) -> None:
        """Wait for its self-test. Raises NotBuilt."""
        if self._is_checked:
            return
        try:
            ready = self._receive(_START_TIMEOUT_S)
        except EngineDied as error:
            raise NotBuilt(f"llama.cpp cannot be asked for a dry run: {error}") from error
        if ready.refusal:
            raise NotBuilt(ready.refusal)
        self._is_checked = True

    def ask(self, question: DryRunQuestion | ProjectorQuestion, timeout_s: float) -> DryRunReply:
        """The answer to a question. Raises EngineDied if there is none within `timeout_s`."""
        try:
            write(_pipe(self._process.stdin), question)
        except OSError as error:
            raise EngineDied("the process that asks llama.cpp has ended") from error
        return self._receive(timeout_s)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _receive(self, timeout_s: float) -> DryRunReply:
        deadline = time.monotonic() + timeout_s
        size: int = LENGTH.unpack(self._read(LENGTH.size, deadline))[0]
        return msgspec.json.decode(self._read(size, deadline), type=DryRunReply)

    def _read(self, size: int, deadline: float) -> bytes:
        descriptor, data = _pipe(self._process.stdout).fileno(), b""
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while len(data) < size:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise EngineDied("llama.cpp did not say in time how it would place the model")
                part = os.read(descriptor, size - len(data))
                if not part:
                    raise EngineDied(
                        f"llama.cpp ended where it was asked for a dry run: {last_words(self._said)}"
                    )
                data += part
        return data


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
