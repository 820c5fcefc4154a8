"""Which plans `tune` measures, for how long, and which of them is the fastest: pure functions."""
