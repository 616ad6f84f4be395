"""Where copies that can be made again are kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """discl's folder in the user's cache: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "discl"
