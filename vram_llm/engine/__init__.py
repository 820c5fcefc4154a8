"""Continuous batching in a process of its own. Knows tokens and sequences, not HTTP."""
