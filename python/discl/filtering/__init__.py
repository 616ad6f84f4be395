"""A store's index in, a selection out, without touching an image: `discl filter`."""

from discl.filtering.filter import Outcome, filter_store
from discl.filtering.rules import Rules

__all__ = ["Outcome", "Rules", "filter_store"]
