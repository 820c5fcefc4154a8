"""Commands: parse, call api.py, print. One file each, with a click command called `command`."""
