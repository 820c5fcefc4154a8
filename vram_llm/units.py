"""Parse and format sizes, counts and rates for users: "24GiB", "32k", "1008 GB/s"."""

import re

KIB, MIB, GIB = 2**10, 2**20, 2**30

_BYTES = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "kb": 10**3,
    "m": MIB, "mib": MIB, "mb": 10**6,
    "g": GIB, "gib": GIB, "gb": 10**9,
    "t": 2**40, "tib": 2**40, "tb": 10**12,
}  # fmt: skip
_COUNT = {"": 1, "k": 1024, "m": 1024**2}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([a-z]*)\s*", re.IGNORECASE)
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_NUMBER = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([a-z]*)\s*", re.IGNORECASE)


def _parse(text: str, scale: dict[str, int], what: str, example: str) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None or match[2].lower() not in scale:
        raise ValueError(f"{text[:40]!r} is not {what}; write it like {example}")
    return round(float(match[1]) * scale[match[2].lower()])


def parse_bytes(text: str) -> int:
    """Bytes in `text`: "24GiB", "24 GB", "512M" (binary). Raises ValueError."""
    return _parse(text, _BYTES, "a size", "24GiB or 512MiB")


def parse_count(text: str) -> int:
    """Tokens in `text`: "4096", "47,616", "32k" (32,768), "1.5k". Raises ValueError."""
    digits = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
    return _parse(digits, _COUNT, "a count", "4096 or 32k")


def parse_bytes_per_s(text: str) -> float:
    """Bytes per second in `text`: "1008GB/s". Raises ValueError."""
    size, slash, second = text.strip().lower().rpartition("/")
    if not slash or second.strip() != "s":
        raise ValueError(f"{text!r} is not a bandwidth; write it like 1008GB/s")
    return float(parse_bytes(size))


def parse_seconds(text: str) -> float:
    """Seconds in `text`: "90", "30s", "10m", "1h 30m", "2d". Raises ValueError."""
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip() or any(unit.lower() not in _SECONDS for _, unit in parts):
        raise ValueError(f"{text[:40]!r} is not a time; write it like 90, 30s, 10m or 1h30m")
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


def typed_seconds(seconds: float) -> str:
    """A time as `parse_seconds` reads it, in the largest unit that keeps it whole: "10m", "45s", "0.5s"."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds:g}s"


def format_mib(n_bytes: int) -> str:
    """Whole mebibytes with a thousands comma, as memory tables show them: "22,528"."""
    return f"{n_bytes / MIB:,.0f}"


def format_bytes(n_bytes: float) -> str:
    """Three significant figures and a binary unit: "12.0 GiB", "867 MiB", "512 B"."""
    size = abs(n_bytes)
    for unit, scale in (("TiB", 2**40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= scale:
            value = n_bytes / scale
            digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
            return f"{value:,.{digits}f} {unit}"
    return f"{n_bytes:.0f} B"


def typed_count(n: int) -> str:
    """A token count as `parse_count` reads it: "24k", "47616"."""
    return f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else str(n)


def format_count(n: int) -> str:
    """A token count for users: "32k" if it is a multiple of 1024, else "12,345"."""
    return f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else f"{n:,}"
