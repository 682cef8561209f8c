"""Where things are kept that took long to make and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$AMENDS_CACHE`, else `~/.cache/amends`; it need not be there yet."""
    return Path(os.environ.get("AMENDS_CACHE", "~/.cache/amends")).expanduser()
