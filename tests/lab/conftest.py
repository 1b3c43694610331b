from __future__ import annotations

from tests.fabric import lab

__all__ = ["lab"]
