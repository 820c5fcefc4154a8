"""Models by their name on a hub.

hf:ORG/REPO/FILE.gguf       a file, which may be in a folder
hf:ORG/REPO:Q4_K_M          the file with this quantisation in its name
hf:ORG/REPO                 the only model there
hf:ORG/REPO@REVISION...     the same at a branch, tag or commit

The hub's HTTP interface and the variables HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME and HF_HUB_OFFLINE
are those of the huggingface_hub package. llama.cpp's common/download.cpp (`gguf_filename_is_model`,
`find_best_model`) gives the rules for which files are models and which file a quantisation names; unlike
there, two matches are an error.
"""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec

from vram_llm.errors import ModelNotFound, RemoteError
from vram_llm.model.http_client import HttpClient, HubEndpoint
from vram_llm.model.location import HUB, RemoteFile
from vram_llm.model.shards import by_model, is_later_shard
from vram_llm.state_file import read_state

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_PAGES = 50
_SHOWN_FILES = 12
_MAX_TOKEN_BYTES = 4096
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(
    rf"(?P<org>{_WORD})/(?P<repo>{_WORD})(?:@(?P<revision>{_WORD}))?(?:/(?P<file>[^\\]+)|:(?P<tag>{_WORD}))?"
)
_SIDECAR = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")


@dataclass(frozen=True, slots=True)
class HubModel:
    """The parts of an `hf:` name. At most one of `file` and `tag` is given."""

    repo: str  # "org/repo"
    revision: str | None
    file: str | None
    tag: str | None

    @property
    def label(self) -> str:
        """The repository as people write it."""
        return f"{HUB}{self.repo}" + (f"@{self.revision}" if self.revision else "")


class _Large(msgspec.Struct):
    oid: str


class HubFile(msgspec.Struct):
    """One entry of a repository's list."""

    type: str
    path: str
    size: int = 0
    oid: str = ""
    lfs: _Large | None = None

    @property
    def content_id(self) -> str:
        """The identifier of the file's content: its SHA-256 if it is large."""
        return self.lfs.oid if self.lfs else self.oid


class _Revision(msgspec.Struct):
    sha: str


def endpoint() -> HubEndpoint:
    """The hub's address and token, from the environment. Raises RemoteError."""
    url = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise RemoteError(f"HF_ENDPOINT is {url!r}, which is not a server's address; write https://...")
    return HubEndpoint(url, _token())


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids questions to the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def find(name: str, hub: HubEndpoint, client: HttpClient) -> RemoteFile:
    """The file that an `hf:` name stands for. Asks the hub for its list unless the name gives the file.

    Raises ModelNotFound or RemoteError and its subclasses.
    """
    model = parse(name)
    return file_at(model, model.file or choose(model, list(list_files(model, hub, client))), hub)


def file_at(model: HubModel, path: str, hub: HubEndpoint) -> RemoteFile:
    """A file of the repository of `model`."""
    url = f"{hub.url}/{model.repo}/resolve/{model.revision or 'main'}/{quote(path)}"
    return RemoteFile(url, f"{model.label}/{path}")


def parse(name: str) -> HubModel:
    """Split an `hf:` name into its parts. Raises ModelNotFound."""
    match = _NAME.fullmatch(name[len(HUB) :])
    if match is None or any(part in ("", ".", "..") for part in (match["file"] or "x").split("/")):
        raise ModelNotFound(
            f"{name!r} is not a name on a hub; write hf:ORG/REPO/FILE.gguf or hf:ORG/REPO:Q4_K_M"
        )
    return HubModel(f"{match['org']}/{match['repo']}", match["revision"], match["file"], match["tag"])


def choose(model: HubModel, files: list[str]) -> str:
    """The file of a repository that `model` names, or its first shard. Raises ModelNotFound."""
    models = sorted(path for path in files if is_model(path))
    if not models:
        raise ModelNotFound(f"{model.label} holds no .gguf model; find a repository that does")
    tag = model.tag
    found = [path for path in models if matches(model, path)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelNotFound(f"{model.label} has no model with {tag} in its name; there are {_listed(models)}")
    what = f"{tag} in {model.label}" if tag else model.label
    raise ModelNotFound(
        f"{what} may be any of {len(found)} models; name one as {model.label}/FILE: {_listed(found)}"
    )


def matches(model: HubModel, path: str) -> bool:
    """Whether a file's name contains the quantisation of `model`; True if `model` has none."""
    if model.tag is None:
        return True
    return re.search(rf"(?<![a-z0-9]){re.escape(model.tag)}[-./]", path, re.IGNORECASE) is not None


def is_model(path: str) -> bool:
    """Whether a file is a model or its first shard, and not a projector or another companion file."""
    return is_model_file(path) and not is_later_shard(path)


def is_model_file(path: str) -> bool:
    """Whether a file is a model or any shard of one, by its name."""
    name = path.rpartition("/")[2]
    return name.endswith(".gguf") and path.isprintable() and not any(word in name for word in _SIDECAR)


def _listed(files: list[str]) -> str:
    more = f" and {len(files) - _SHOWN_FILES} more" if len(files) > _SHOWN_FILES else ""
    return ", ".join(files[:_SHOWN_FILES]) + more


def models(name: str, hub: HubEndpoint, client: HttpClient) -> dict[str, int]:
    """The names of all models in the repository of `name`, each with the bytes of all its parts.

    Raises ModelNotFound or RemoteError and its subclasses.
    """
    model = parse(name)
    files = list_files(model, hub, client)
    return {
        f"{model.label}/{path}": sum(files[part].size for part in parts)
        for path, parts in by_model(files).items()
        if is_model(path)
    }


def commit_of(model: HubModel, hub: HubEndpoint, client: HttpClient) -> str:
    """The current commit of the revision in `model`. Raises ModelNotFound or RemoteError."""
    url = f"{hub.url}/api/models/{model.repo}/revision/{model.revision or 'main'}"
    try:
        sha = msgspec.json.decode(client.read_page(url, model.label).data, type=_Revision).sha
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise RemoteError(f"{hub.url} does not say which commit {model.label} is at: {error}") from error
    if not re.fullmatch(r"[0-9a-f]{40}", sha):
        raise RemoteError(f"{hub.url} says that {model.label} is at {sha[:60]!r}, which is not a commit")
    return sha


def list_files(model: HubModel, hub: HubEndpoint, client: HttpClient) -> dict[str, HubFile]:
    """Every file of a repository by path. Raises ModelNotFound or RemoteError and its subclasses."""
    url: str | None = f"{hub.url}/api/models/{model.repo}/tree/{model.revision or 'main'}?recursive=true"
    files: dict[str, HubFile] = {}
    for _ in range(MAX_PAGES):
        if url is None:
            break
        page = client.read_page(url, model.label)
        try:
            entries = msgspec.json.decode(page.data, type=list[HubFile])
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise RemoteError(
                f"{hub.url} answers with something other than a list of files for {model.label}: {error};"
                " is HF_ENDPOINT a hub?"
            ) from error
        files |= {entry.path: entry for entry in entries if entry.type == "file"}
        url = page.next_url
    return files


def _token() -> str | None:
    """HF_TOKEN, else the token that the hub's log-in command saved."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        home = os.environ.get("HF_HOME") or Path("~", ".cache", "huggingface")
        saved = Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token")).expanduser()
        try:
            token = read_state(saved, _MAX_TOKEN_BYTES, follow=True).decode().strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text in UTF-8"
            log.warning("the hub's token in %s is not used: %s", saved, why)
            return None
    if token and not (token.isascii() and token.isprintable()):
        raise RemoteError("the hub's token holds characters that no token has; set HF_TOKEN again")
    return token or None
