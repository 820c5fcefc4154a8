"""Bytes that a placement takes on each device, computed without llama.cpp."""
