"""The jobs behind the commands, each readable from top to bottom.

`train` (and resume) calls, in this order, `preparation`, `restoring`, `recording` and `finishing`;
`reading`, `prediction`, `promotion`, `export` and `reproduction` work on runs that exist.
"""
