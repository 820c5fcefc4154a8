"""Measuring devices and loaded plans, in processes of their own."""
