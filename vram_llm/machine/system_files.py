"""Files of /proc, /sys and /run, which may be missing."""

from pathlib import Path


def read_text(path: Path) -> str:
    """The text of the file without surrounding white space; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
