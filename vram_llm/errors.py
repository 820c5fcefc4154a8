"""The errors that users can see, in one tree.

    VramLLMError                 1   anything below, or a fault of ours
    ├── DoesNotFit               2   no plan keeps every device inside its budget
    ├── ModelNotFound           10   no such file, here or on the server named
    ├── ModelFileError          11   not a GGUF file
    │   ├── TruncatedFile       12   the header, or the tensor data it promises, is cut short
    │   ├── CorruptHeader       13   counts, lengths or types no model can have
    │   ├── MissingShard        14   a split file with a part gone, or parts that disagree
    │   └── RemoteError         15   a server cannot be asked, or answers with something else
    │       ├── NoRanges        16   it sends whole files only
    │       ├── AccessDenied    17   it asks who we are, or says no
    │       └── ChangedOnServer 18   the file was replaced while it was read
    ├── UnknownDevice           20   a card or processor that is not in the catalog
    ├── WorkerUnreachable       21   an RPC worker that does not answer
    ├── BadSplit                64   a tensor split that does not match the devices: a wrong flag
    ├── BadHost                 64   memory, processor or disk of another computer that cannot be understood
    ├── BadPlan                 23   a plan file that cannot be used
    ├── PortInUse               30   another program listens on the address
    ├── KeyRequired             64   an address that other computers reach, without an API key: a missing flag
    ├── BadConfig               64   a configuration file that cannot be read or understood
    ├── BadKeysFile             64   a file of API keys that cannot be read or written, or a name in it
    ├── BadPromptFile           64   a file of prompts for a load that cannot be read or used
    ├── BadCertificate          64   a TLS certificate or key that cannot be used
    ├── BadPicture              64   a picture's file that cannot be written, or has another suffix
    ├── BadTraceSettings        64   OTEL_ variables that ask for another way of sending traces
    ├── ModelRefused            31   llama.cpp does not load this model, or not with these options
    ├── EngineDied              32   the engine process ended while it was needed
    │   ├── AnswerCutOff        --   it had begun an answer that another engine cannot continue
    │   └── ModelChanged        --   its model's file was replaced while a request waited
    ├── NotBuilt                33   this build of llama.cpp lacks what was asked for, or this is Windows
    │   └── MissingExtra        33   an optional package is not installed
    ├── ServerUnreachable       34   no server answers `chat`, `watch` or `bench serve`
    ├── DiskFull                35   a model to fetch is larger than the disk's free space
    ├── TuneRunning             36   another `tune` measures on this computer
    ├── Overloaded              --   the queue is full; the same request may succeed later
    └── RequestError            --   one request is at fault, nothing else (HTTP only)
        ├── ContextExceeded     --   its prompt is longer than the context
        ├── UnknownModel        --   it names a model that is not served
        ├── PoisonRequest       --   the engine died twice while it computed it
        └── RequestTimeout      --   its time was over before it had a token

The number is the process's exit code; wrong flags exit with 64 (sysexits' EX_USAGE), Ctrl+C with 130.
"""

from dataclasses import dataclass
from typing import ClassVar


class VramLLMError(Exception):
    """An error with a sentence for the user: what happened, by how much, what to try.

    `retry_after_s` is the time after which the same request may succeed; None: unknown.
    """

    exit_code: ClassVar[int] = 1
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A change with which a model fits: `flags` to add to the command."""

    flags: tuple[str, ...]
    n_ctx: int
    n_layers: int
    cpu_layers: int  # layers that are on the CPU whole
    cpu_parts: int = 0  # layers on the cards of which the CPU has experts or feed-forward weights
    on_cpu: str = ""  # weights on the CPU, in words, if parts of layers are there
    tokens_per_s: float | None = None  # of one stream, predicted
    from_disk: str = ""  # weights that are read from the disk, in words

    @property
    def n_on_cpu(self) -> int:
        """Layers of which the CPU has something; 0: all are on the cards."""
        return self.cpu_layers + self.cpu_parts

    def __str__(self) -> str:
        on_cpu = self.on_cpu or (f"{self.cpu_layers} of {self.n_layers} layers" if self.cpu_layers else "")
        where = self.from_disk or (f"{on_cpu} on the CPU" if on_cpu else "all on the cards")
        speed = "" if self.tokens_per_s is None else f", {self.tokens_per_s:.3g} tok/s expected"
        return f"{' '.join(self.flags)} ({where}{speed})"


class DoesNotFit(VramLLMError):
    """No placement keeps every device inside its budget.

    `short_bytes` is missing on all devices and the host together. With each of `suggestions` the model fits;
    those that keep it on the cards come first. `host_is_short`: the computer's memory has no room either.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        short_bytes: int = 0,
        suggestions: tuple[Suggestion, ...] = (),
        host_is_short: bool = False,
    ) -> None:
        super().__init__(message)
        self.short_bytes = short_bytes
        self.suggestions = suggestions
        self.host_is_short = host_is_short

    def with_suggestion(self, suggestion: Suggestion) -> "DoesNotFit":
        """The same error with one more suggestion, after its sentence."""
        return DoesNotFit(
            f"{self}, or {suggestion}",
            short_bytes=self.short_bytes,
            suggestions=(*self.suggestions, suggestion),
            host_is_short=self.host_is_short,
        )

    def with_remark(self, remark: str) -> "DoesNotFit":
        """The same error with a remark after its sentence."""
        return DoesNotFit(
            f"{self}; {remark}",
            short_bytes=self.short_bytes,
            suggestions=self.suggestions,
            host_is_short=self.host_is_short,
        )


class ModelNotFound(VramLLMError):
    """There is no file at the path or address given."""

    exit_code = 10


class ModelFileError(VramLLMError):
    """The file is not a GGUF model."""

    exit_code = 11


class TruncatedFile(ModelFileError):
    """The file ends inside its header, or before the end of the tensor data that the header lists.

    `needed_bytes` is the least size of the header, from the start of the file, if the file ends inside it; 0
    if tensor data are missing.
    """

    exit_code = 12

    def __init__(self, message: str, needed_bytes: int = 0) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


class CorruptHeader(ModelFileError):
    """The header holds counts, lengths or types that no model can have."""

    exit_code = 13


class MissingShard(ModelFileError):
    """A part of a split file is not there, or the parts disagree."""

    exit_code = 14


class RemoteError(ModelFileError):
    """The server that has the model cannot be reached, or its answer cannot be used."""

    exit_code = 15


class NoRanges(RemoteError):
    """The server sends whole files only, so a header cannot be read alone."""

    exit_code = 16


class AccessDenied(RemoteError):
    """The server wants a token, or the token it got may not read the model."""

    exit_code = 17


class ChangedOnServer(RemoteError):
    """The file was replaced on the server between two requests."""

    exit_code = 18


class UnknownDevice(VramLLMError):
    """The name of a card or processor that is not in the catalog."""

    exit_code = 20


class WorkerUnreachable(VramLLMError):
    """An RPC worker does not answer, or not like llama.cpp's."""

    exit_code = 21


class BadSplit(VramLLMError):
    """A tensor split or layer count that does not match the devices or the model."""

    exit_code = 64


class BadHost(VramLLMError):
    """A host described by words that cannot be understood or that contradict each other."""

    exit_code = 64


class BadPlan(VramLLMError):
    """A plan file that cannot be read, or that names a file or device that is not here."""

    exit_code = 23


class PortInUse(VramLLMError):
    """The address to listen on is taken."""

    exit_code = 30


class KeyRequired(VramLLMError):
    """The server would listen beyond this computer without an API key."""

    exit_code = 64


class BadConfig(VramLLMError):
    """A configuration file cannot be read, is not YAML, or has a key that is no option."""

    exit_code = 64


class BadKeysFile(VramLLMError):
    """A file of API keys is damaged, lacks the key to remove, or already has the name of the key to add."""

    exit_code = 64


class BadPromptFile(VramLLMError):
    """A file of prompts for `bench serve` cannot be read, or has another form."""

    exit_code = 64


class BadCertificate(VramLLMError):
    """The TLS certificate, or its key, cannot be read or does not match."""

    exit_code = 64


class BadPicture(VramLLMError):
    """The file of a picture cannot be written, or its name ends in no form that is drawn."""

    exit_code = 64


class BadTraceSettings(VramLLMError):
    """OTEL_ variables ask for traces in a way that this program does not send."""

    exit_code = 64


class ModelRefused(VramLLMError):
    """llama.cpp would not load the model or make its context."""

    exit_code = 31


class EngineDied(VramLLMError):
    """The engine process ended while it was needed."""

    exit_code = 32


class AnswerCutOff(EngineDied):
    """The engine died after it had begun an answer, which another engine cannot continue."""


class ModelChanged(EngineDied):
    """The model's file was replaced by another model while a request waited."""


class NotBuilt(VramLLMError):
    """This build of llama.cpp lacks what was asked for, or this system cannot run it."""

    exit_code = 33


class MissingExtra(NotBuilt):
    """An optional package is not installed."""


class ServerUnreachable(VramLLMError):
    """No server answers `chat`, `watch` or `bench serve`, or the server is gone."""

    exit_code = 34


class DiskFull(VramLLMError):
    """The disk has less room than a download needs."""

    exit_code = 35


class TuneRunning(VramLLMError):
    """Another `tune` measures on this computer."""

    exit_code = 36


class Overloaded(VramLLMError):
    """The queue is full, or a model is not loaded soon enough."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestError(VramLLMError):
    """One request cannot be served. `param` names the field at fault, if there is one."""

    code: ClassVar[str] = "invalid_value"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextExceeded(RequestError):
    """The prompt does not fit the context. `n_prompt_tokens` is its least length; None: unknown."""

    code = "context_length_exceeded"

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        n_prompt_tokens: int | None = None,
        n_ctx: int | None = None,
    ) -> None:
        super().__init__(message, param)
        self.n_prompt_tokens = n_prompt_tokens
        self.n_ctx = n_ctx


class UnknownModel(RequestError):
    """A model that is not served here."""

    code = "model_not_found"


class PoisonRequest(RequestError):
    """The engine died twice while it computed this request, which is not computed again."""

    code = "poison_request"


class RequestTimeout(RequestError):
    """The time for a request was over before its answer had begun."""

    code = "request_timeout"


class RequestCancelled(RequestError):
    """A request was ended by its owner or by the server's operator."""

    code = "request_cancelled"
