"""Figures as plans print them."""

from vram_llm.units import GIB


def rate(tokens_per_s: float) -> str:
    """Tokens per second, rounded to the figures that are known: "7.4", "113"."""
    return f"{tokens_per_s:,.1f}" if tokens_per_s < 99.95 else f"{tokens_per_s:,.0f}"


def rough_rate(tokens_per_s: float) -> str:
    """Tokens per second of several streams or of prompts, which are known less well: "7.4", "70", "2,670"."""
    if tokens_per_s < 9.95:
        return f"{tokens_per_s:.1f}"
    return f"{float(f'{tokens_per_s:.3g}'):,.0f}"


def gib(n_bytes: int) -> str:
    """Gibibytes with one decimal: "22.3"."""
    return f"{n_bytes / GIB:,.1f}"


def seconds(value: float) -> str:
    """ "14 ms", "0.41 s", "2.4 s", "134 s"."""
    if value < 0.0995:
        return f"{value * 1e3:,.0f} ms" if value >= 0.0095 else f"{value * 1e3:.1f} ms"
    return f"{value:,.0f} s" if value >= 9.95 else f"{value:.1f} s" if value >= 0.95 else f"{value:.2f} s"
