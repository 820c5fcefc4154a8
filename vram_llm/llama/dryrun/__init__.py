"""The dry run: a child process in which llama.cpp places a model's header on virtual devices."""
