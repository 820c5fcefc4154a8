"""Addresses of servers as people type them: "127.0.0.1:8080", "gpu.lan:8080/v1", "http://[::1]:8080"."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}(?:/v1)?/?")
_URL = re.compile(r"https?://", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether `text` names a server and not a model: HOST:PORT, or a URL that does not end in .gguf."""
    if _URL.match(text):
        return not text.lower().endswith(".gguf")
    return _HOST_AND_PORT.fullmatch(text) is not None


def base_url(address: str) -> str:
    """The URL of its OpenAI endpoint: http, and /v1 if the address has no path."""
    url = address if _URL.match(address) else f"http://{address}"
    url = url.rstrip("/")
    has_path = "/" in url.partition("://")[2]
    return url if has_path else f"{url}/v1"


def root_url(address: str) -> str:
    """The URL of the server itself, below which /v1 and /status are."""
    return base_url(address).removesuffix("/v1")


def is_of_this_computer(url: str) -> bool:
    """Whether the host is a loopback address, which no proxy can reach."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
