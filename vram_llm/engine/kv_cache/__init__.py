"""The KV cache shared by sequences: prefixes, checkpoints, states offloaded to host and disk."""
