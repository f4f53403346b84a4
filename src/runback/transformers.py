"""`runback.transformers`: the callback for the Trainer of transformers."""

from __future__ import annotations

from runback.integrations.transformers import RunbackCallback

__all__ = ["RunbackCallback"]
