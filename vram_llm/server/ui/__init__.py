"""The dashboard: a page at /, and the routes that it needs more than other clients do."""
