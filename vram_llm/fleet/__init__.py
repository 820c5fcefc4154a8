"""Several models on the cards of one machine: which engines run, and who waits for which model.

Planning functions are handed in. Knows no HTTP.
"""
