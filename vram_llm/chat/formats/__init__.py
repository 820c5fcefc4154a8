"""How models write tool calls and thinking: a parse function for each way, over a Reader."""
