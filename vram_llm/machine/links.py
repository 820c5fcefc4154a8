"""Links to workers, in words."""

from vram_llm.machine.types import Link


def described_link(link: Link) -> str:
    """Bandwidth and round trip: "940 Mbit/s, 0.62 ms there and back"."""
    bits_per_s, round_trip_s = 8 * link.bytes_per_s.value, 2 * link.latency_s.value
    rate = f"{bits_per_s / 1e9:,.3g} Gbit/s" if bits_per_s >= 0.9995e9 else f"{bits_per_s / 1e6:,.3g} Mbit/s"
    digits = 2 if round_trip_s < 1e-2 else 3
    return f"{rate}, {1e3 * round_trip_s:,.{digits}g} ms there and back"
