"""Policies decide and do not act: view in, intent out. No clock, no socket, no chance of their own."""
