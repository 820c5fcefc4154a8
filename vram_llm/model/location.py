"""The location of a model's file: a local path, or an address on a server."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

HUB = "hf:"
LM_STUDIO, OLLAMA, LLAMA_CPP = KEEPERS = ("lmstudio:", "ollama:", "llama.cpp:")
_REMOTE = ("https://", "http://", HUB)


def is_remote(name: str) -> bool:
    """Whether `name` is a model on a server: a URL or an `hf:` name."""
    return name.lower().startswith(_REMOTE)


def is_kept(name: str) -> bool:
    """Whether `name` belongs to a model that another program keeps on this disk (library.py)."""
    return name.startswith(KEEPERS)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a server, with the part of `pathlib.Path` that reading headers needs.

    Requests use `url`, which may hold a password or a signed query. Messages, plans and JSON show `label`:
    the `hf:` name, or the URL without password and query.
    """

    url: str
    label: str

    @classmethod
    def at(cls, url: str) -> Self:
        """The file at a URL; its label is the URL's public part. Raises ValueError."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        where = f"[{host}]" if ":" in host else host
        port = f":{parts.port}" if parts.port else ""
        return cls(url, urlunsplit((parts.scheme, where + port, parts.path, "", "")))

    @property
    def name(self) -> str:
        """The file's name, without its folders."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])

    @property
    def stem(self) -> str:
        """The name without `.gguf`."""
        return self.name.removesuffix(".gguf")

    @property
    def parent(self) -> str:
        """The folder in `label`."""
        return self.label.rpartition("/")[0]

    def with_name(self, name: str) -> Self:
        """The file called `name` in the same folder."""
        parts = urlsplit(self.url)
        url = urlunsplit(parts._replace(path=f"{parts.path.rpartition('/')[0]}/{quote(name)}"))
        shown = name if self.label.startswith(HUB) else quote(name)
        return type(self)(url, f"{self.parent}/{shown}")

    def __str__(self) -> str:
        return self.label
