"""llama.cpp places a header on virtual devices, in a process of its own."""
