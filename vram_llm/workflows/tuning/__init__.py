"""Measure the best few plans of a model on this machine, keep the fastest, and use it from then on."""
