"""The leaf that every room may import: what its errors return, and the name that a message proposes."""

import pytest

from discl import errors
from discl.errors import nearest


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("stpes", ("seeds", "steps", "levels"), "steps"),
        ("STEPS", ("Steps", "levels"), "Steps"),
        ("LEVELS", ("upscale", "levels"), "levels"),
        ("kind", ("root", "KIND"), "KIND"),
        ("RED fOX", ("red fox", "Red Fox", "RED FOX"), "RED FOX"),
        ("dpmpp", ("ddim", "euler", "dpmpp-2m"), "dpmpp-2m"),
        ("steps", ("steps", "step"), "steps"),
        ("xyz", ("levels",), "levels"),  # however far: something is named where anything is known
        ("", ("levels",), "levels"),
        ("steps", (), ""),
    ],
)
def test_the_nearest_known_name_is_named(word, known, expected):
    assert nearest(word, known) == expected
    assert nearest(word, iter(known)) == expected


def test_only_a_failed_run_is_not_the_users_to_change():
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DisclError)]
    assert len(found) > 5
    assert {kind: kind.exit_code for kind in found} == {kind: 1 if kind is errors.RunFailed else 2 for kind in found}
