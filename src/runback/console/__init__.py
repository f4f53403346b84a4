"""Progress and messages on standard error."""
