"""Train the built-in model: a small llama that answers questions about this program and its environment.

    make demo-model            # or: python -m tools.demo_model

`corpus` reads data/, `wording` varies questions, `conversations` makes chats of them, `calls` those with
tools, `vocabulary` learns tokens, `network` is the model, `train` fits it and `export` writes it as GGUF. All
but `network`, `train` and `export` run without PyTorch.
"""
