"""The menu of curriculum policies: a Stage in, the active image-guidance levels out (none: real images only).

The policy "none" is not here: it draws from the natural distribution, without levels (discl.curriculum).
"""

from discl.policies.adaptive import adaptive
from discl.policies.all_level import all_level
from discl.policies.diverse_to_specific import diverse_to_specific
from discl.policies.fixed import fixed
from discl.policies.random_level import random_level
from discl.policies.real_only import real_only
from discl.policies.recursive import recursive
from discl.policies.shrink import shrink
from discl.policies.specific_to_diverse import specific_to_diverse
from discl.policies.stage import Stage
from discl.policies.text_only import text_only

__all__ = ["POLICIES", "Stage"]

POLICIES = {
    "diverse-to-specific": diverse_to_specific,
    "specific-to-diverse": specific_to_diverse,
    "all-level": all_level,
    "text-only": text_only,
    "fixed": fixed,
    "random": random_level,
    "adaptive": adaptive,
    "recursive": recursive,
    "shrink": shrink,
    "real-only": real_only,
}
