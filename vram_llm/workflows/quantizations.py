"""Every quantisation in a repository or a folder, planned from its header alone, and the best one named."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.errors import EngineDied, ModelNotFound, ModelRefused, NotBuilt, RemoteError, VramLLMError
from vram_llm.model import hub
from vram_llm.model.file_kind import FileKind, draft_head_of, kind_of
from vram_llm.model.header import Header, read_local_header
from vram_llm.model.header_reader import read_header
from vram_llm.model.known_arrays import KnownArrays
from vram_llm.model.location import RemoteFile
from vram_llm.model.metadata_overrides import with_overrides
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.best_quantization import Quantization, best_quantization, bits_per_weight
from vram_llm.planner.rope import with_rope
from vram_llm.workflows.argument_types import check_field_types, check_type
from vram_llm.workflows.model_files import ModelFile, ModelFiles, files_of, without_tag
from vram_llm.workflows.planning import dry_run

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.machine.types import Machine
    from vram_llm.model.http_client import HttpClient
    from vram_llm.planner.quick_fit import QuickFit
    from vram_llm.planner.types import Context, Meter, Workload

_AT_ONCE = 8  # headers read at the same time
_MOST_ASKED = 4  # quantisations of a model that the dry run places
_ANALYTIC = "analytic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizations:
    """The models of a repository or a folder, the largest first, and notes on the list itself."""

    source: str  # "hf:ORG/REPO", or the folder
    quantizations: tuple[Quantization, ...]
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> tuple[Quantization, ...]:
        """The best quantisation of each model; none of a model that does not fit."""
        return tuple(row for row in self.quantizations if row.is_best)


def quantizations(
    model: str, machine: "Machine", workload: "Workload | None" = None, dry: "DryRun | None" = None
) -> Quantizations:
    """Every quantisation in the folder or repository `model`: size, fit, longest context and speed.

    Only headers are read. The analytic meter measures all; llama.cpp's dry run confirms the best one, which
    planner/best_quantization.py chooses. `workload` None means all defaults. A file that cannot be read or
    planned is a row with the reason. Raises ModelNotFound if `model` is neither a folder nor a repository or
    holds no model, RemoteError and its subclasses, and the first file's error if no file can be read.
    """
    check_type("model", model, str)
    found = files_of(model)
    if found is None:
        raise ModelNotFound(f"{model} is neither a folder nor a repository (hf:ORG/REPO)")
    return compare_files(found, machine, workload, dry)


def compare_files(
    found: ModelFiles, machine: "Machine", workload: "Workload | None" = None, dry: "DryRun | None" = None
) -> Quantizations:
    """The quantisations in `found`. Raises the errors of `quantizations`."""
    from vram_llm.machine.types import Machine
    from vram_llm.planner.types import Workload

    workload = Workload() if workload is None else workload
    check_type("machine", machine, Machine)
    check_type("workload", workload, Workload)
    check_field_types(workload)
    if workload.largest_ctx:
        workload = replace(workload, n_ctx=None, largest_ctx=False)
    with nullcontext(dry) if dry is not None else dry_run() as asked:
        table = _Table(found, machine, workload)
        notes = table.confirm(asked)
    return Quantizations(source=found.source, quantizations=table.rows(), notes=(*found.notes, *notes))


def largest_that_fits(name: str, machine: "Machine", workload: "Workload") -> Quantization | None:
    """The best quantisation of the model that an `hf:` name stands for, if another one fits `machine`."""
    wish = hub.parse(name)
    found = files_of(wish.label)
    if found is None or len(found.files) == 1:
        return None
    identity = _identity(profile(read_header(name)))
    table = _Table(found, machine, workload)
    with dry_run() as dry:
        table.confirm(dry)
    return table.best_of(identity)


class _Table:
    """The rows by name, with the headers and profiles that they were made from."""

    def __init__(self, found: ModelFiles, machine: "Machine", workload: "Workload") -> None:
        """Read and plan all files. Raises the first file's error if none can be read."""
        self._machine, self._workload = machine, workload
        self._rows: dict[str, Quantization] = {}
        self._read: dict[str, tuple[Header, ModelProfile]] = {}
        self._errors: list[VramLLMError] = []
        for file, header in _headers(found.files):
            if isinstance(header, Header) and not _is_whole_model(header):
                continue
            on_disk = isinstance(file.file, Path)
            row = Quantization(name=file.name, label=file.label, is_on_disk=on_disk, bytes=file.n_bytes)
            self._rows[file.name] = self._planned(row, header)
        self._name_models()
        self._raise_if_none()

    def _planned(self, row: Quantization, header: Header | VramLLMError) -> Quantization:
        from vram_llm.planner.quick_fit import quick_fit

        try:
            if isinstance(header, VramLLMError):
                raise header
            header = with_overrides(header, self._workload.kv_overrides)
            own = with_rope(profile(header), self._workload.rope)
            row = replace(
                row,
                bytes=sum(shard.n_bytes for shard in header.shards),
                quantization=own.quantization,
                bits_per_weight=bits_per_weight(own),
            )
            self._read[row.name] = header, own
            return _with_fit(row, quick_fit(own, self._machine, self._workload))
        except VramLLMError as error:
            self._errors.append(error)
            return replace(row, reason=str(error))

    def _name_models(self) -> None:
        """Give the quantisations of a model one name, and each model another."""
        names: dict[tuple[object, ...], str] = {}
        for name, (_, own) in self._read.items():
            key = _identity(own)
            if key not in names:
                shown = without_tag(own.name)
                is_taken = shown in names.values()
                names[key] = f"{shown} ({own.parameters / 1e9:.3g}B)" if is_taken else shown
            self._rows[name] = replace(self._rows[name], model=names[key])

    def _raise_if_none(self) -> None:
        if self._errors and all(row.fits is None for row in self._rows.values()):
            raise self._errors[0]

    def confirm(self, dry: "DryRun") -> tuple[str, ...]:
        """Let the dry run place the best quantisation of each model. Returns notes."""
        for model in self._models():
            try:
                self._confirm(model, dry)
            except ModelRefused as error:
                self._errors.append(error)
                for row in self._of(model):
                    self._rows[row.name] = _without_fit(row, str(error))
            except (NotBuilt, EngineDied) as error:
                return (f"no dry run: {error}",)
        self._raise_if_none()
        return ()

    def _confirm(self, model: str, dry: "DryRun") -> None:
        for _ in range(_MOST_ASKED):
            row = self._next_to_ask(self._of(model))
            if row is None:
                return
            header, own = self._read[row.name]
            self._rows[row.name] = _with_fit(row, self._exact_fit(header, own, dry))

    def _next_to_ask(self, rows: "Sequence[Quantization]") -> Quantization | None:
        """The quantisation to confirm: one that would be the best if it was on the cards, else the best."""
        from vram_llm.planner.quick_fit import may_be_on_cards

        for row in sorted(rows, key=_size):
            if row.is_on_cards is not False or row.method != _ANALYTIC:
                continue
            on_cards = replace(row, fits=True, is_on_cards=True)
            would_be = best_quantization([on_cards if other is row else other for other in rows])
            if would_be is on_cards and may_be_on_cards(
                self._read[row.name][1], self._machine, self._workload
            ):
                return row
        best = best_quantization(rows)
        return best if best is not None and best.method == _ANALYTIC else None

    def _exact_fit(self, header: Header, own: ModelProfile, dry: "DryRun") -> "QuickFit":
        from vram_llm.planner.quick_fit import quick_fit

        machine, workload = self._machine, self._workload

        def exact(context: "Context") -> "Meter":
            return dry.meter(header, context, machine.devices, machine.host, workload.reserve_bytes)

        return quick_fit(own, machine, workload, exact)

    def best_of(self, identity: tuple[object, ...]) -> Quantization | None:
        """The best quantisation of the model with this identity; None if none fits."""
        return best_quantization(
            [self._rows[name] for name, (_, own) in self._read.items() if _identity(own) == identity]
        )

    def rows(self) -> tuple[Quantization, ...]:
        """The rows of each model together, the largest first, then those without a model."""
        found: list[Quantization] = []
        for model in self._models():
            rows = self._of(model)
            best = best_quantization(rows)
            rows.sort(key=_size, reverse=True)
            found += [replace(row, is_best=row is best) for row in rows]
        return (*found, *(row for row in self._rows.values() if row.model is None))

    def _models(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self._rows.values() if row.model is not None))

    def _of(self, model: str) -> list[Quantization]:
        return [row for row in self._rows.values() if row.model == model]


def _with_fit(row: Quantization, fit: "QuickFit") -> Quantization:
    return replace(row, **{name: getattr(fit, name) for name in fit.__dataclass_fields__})


def _without_fit(row: Quantization, reason: str) -> Quantization:
    return Quantization(
        name=row.name,
        label=row.label,
        is_on_disk=row.is_on_disk,
        bytes=row.bytes,
        model=row.model,
        quantization=row.quantization,
        bits_per_weight=row.bits_per_weight,
        reason=reason,
    )


def _size(row: Quantization) -> int:
    return row.bytes or 0


def _is_whole_model(header: Header) -> bool:
    """Whether a file is a model of its own: no adapter, projector or draft head."""
    return kind_of(header) is FileKind.MODEL and draft_head_of(header) is None


def _identity(own: ModelProfile) -> tuple[object, ...]:
    """Equal for the quantisations of one model. Some of them may leave its draft layers out."""
    name = "".join(char for char in without_tag(own.name).lower() if char.isalnum())
    return name, own.architecture, own.n_embd, own.n_layers - own.n_draft_layers, own.n_expert


def _headers(files: Sequence[ModelFile]) -> Iterator[tuple[ModelFile, Header | VramLLMError]]:
    """Each file with its header, or with the error of reading it, in order. Raises RemoteError."""
    pool, known = ThreadPoolExecutor(_AT_ONCE), KnownArrays()
    with _client() if any(isinstance(file.file, RemoteFile) for file in files) else nullcontext() as client:
        try:
            first = _header(files[0].file, client, known)  # the others have its vocabulary
            reads = [(file, pool.submit(_header, file.file, client, known)) for file in files[1:]]
            yield files[0], first
            for file, read in reads:
                yield file, read.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _client() -> "HttpClient":
    from vram_llm.model.http_client import HttpClient  # imports an HTTP client

    return HttpClient(hub.endpoint())


def _header(
    file: Path | RemoteFile, client: "HttpClient | None", known: KnownArrays
) -> Header | VramLLMError:
    try:
        if isinstance(file, Path):
            return read_local_header(file, known)
        from vram_llm.model.remote import read_header_at

        assert client is not None  # as there are remote files
        return read_header_at(file, client, known)
    except RemoteError:
        raise
    except VramLLMError as error:
        return error
