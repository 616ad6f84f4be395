"""What a caller gave to a public class, checked by what the class will ask of it."""

from collections.abc import Sequence
from typing import Any

from discl.errors import ConfigError


def check_has(call: str, name: str, value: Any, attributes: Sequence[str], advice: str) -> None:
    """ConfigError with `advice` unless `value` has all these attributes."""
    lacking = [attribute for attribute in attributes if not hasattr(value, attribute)]
    if isinstance(value, type) or lacking:
        what = "a class, not one of its objects" if isinstance(value, type) else f"it has no {', '.join(lacking)}"
        raise ConfigError(f"{call}({name}={shown(value)}): {what}; {advice}")


def shown(value: Any) -> str:
    """A value in an error message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
