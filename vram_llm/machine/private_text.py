"""Text without what names a person or a computer, for reports that people paste into issues."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OTHER_HOMES = re.compile(r"/(?:home|Users)/[^\s'\",;:]+")
_UUIDS = re.compile(r"\b(?:GPU|MIG)-[0-9a-fA-F][0-9a-fA-F-]{3,}")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
_LEAST_SECRET = 6  # characters; shorter values are words such as "none"
_PUBLIC_NAMES = {"root", "localhost", ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateNames:
    """The names to leave out."""

    homes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()  # values of variables that hold keys

    def without(self, text: str) -> str:
        """`text` with "~", "USER", "HOST" and "..." in their place. UUIDs of cards lose their digits."""
        for secret in self.secrets:
            text = text.replace(secret, "...")
        for home in self.homes:
            text = re.sub(rf"{re.escape(home)}(?:/[^\s'\",;:]*)?(?![\w.-])", "~", text)
        text = _OTHER_HOMES.sub("~", text)
        text = _UUIDS.sub(lambda found: f"{found[0][:3]}-...", text)
        for names, stand_in in ((self.users, "USER"), (self.hosts, "HOST")):
            for name in names:
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", stand_in, text)
        return text

    def without_any(self, content: Any) -> Any:
        """`content`, of lists, dictionaries and plain values, with `without` applied to each text."""
        match content:
            case str():
                return self.without(content)
            case dict():
                return {key: self.without_any(value) for key, value in content.items()}
            case list() | tuple():
                return [self.without_any(value) for value in content]
        return content


def private_names(environ: Mapping[str, str] = os.environ) -> PrivateNames:
    """The names of this user and this computer, and the keys in the environment."""
    homes = {environ.get("HOME", ""), str(Path.home())} - {"", "/"}
    users = {environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")}
    users |= {Path(home).name for home in homes}
    host = platform.node()
    secrets = {
        value
        for name, value in environ.items()
        if _SECRET.search(name) and len(value) >= _LEAST_SECRET and not value.isdecimal()
    }
    return PrivateNames(
        homes=_longest_first(homes),
        users=_longest_first(users - _PUBLIC_NAMES),
        hosts=_longest_first({host, host.partition(".")[0]} - _PUBLIC_NAMES),
        secrets=_longest_first(secrets),
    )


def _longest_first(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (-len(name), name)))
