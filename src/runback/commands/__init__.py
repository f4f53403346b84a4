"""The commands, one module for each: train, resume, evaluate, predict, promote, export, reproduce,
sync. `finish`, `launch`, `load` and `recorded` are shared by several commands.
"""
