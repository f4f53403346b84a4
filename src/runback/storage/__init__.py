"""Local storage of a run: atomic files, checkpoints, the journal, the locks."""
