"""Several models on the devices of one machine: which are resident together, and which are unloaded when."""
