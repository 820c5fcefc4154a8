"""Real client programs, each in an environment of its own, against this server: `make clients`."""
