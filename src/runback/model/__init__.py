"""Modules: built-in ones, their specs, saving, loading and serving."""
