"""What-if plans of the served model, made in a process of their own."""
