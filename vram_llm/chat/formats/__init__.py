"""How models write tool calls and thinking: a grammar for each way, over a Reader."""
