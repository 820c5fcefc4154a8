"""Faults injected into a running server, and what its clients see."""
