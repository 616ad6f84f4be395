"""Images that are there already in, scores/<scorer>/ out: `discl score`."""

from discl.scoring.diversity import diversity
from discl.scoring.foreign import score_images
from discl.scoring.request import ScoreRequest
from discl.scoring.score import score_store

__all__ = ["ScoreRequest", "diversity", "score_images", "score_store"]
