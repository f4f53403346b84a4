"""Modules, and the round trip between a module and the JSON that rebuilds it."""
