"""The search for a placement: the device of each layer."""
