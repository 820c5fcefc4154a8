"""Commands: parse, call a workflow, print. One file each, with a click command called `command`."""
