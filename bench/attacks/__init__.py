"""Attacks over HTTP while an innocent client streams: what it notices of them."""
