"""A store's folder in, how its run stands out: for terminals, browsers and Prometheus. Files alone; no server."""

from discl.watching.state import State, look

__all__ = ["State", "look"]
