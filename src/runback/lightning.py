"""`runback.lightning`: the logger for Lightning's Trainer."""

from __future__ import annotations

from runback.integrations.lightning import RunbackLogger

__all__ = ["RunbackLogger"]
