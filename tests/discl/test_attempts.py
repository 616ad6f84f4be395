"""Which attempts a wish gets: against the paper's loop (1.7) written down plainly, from every half-way state."""

import numpy as np
import pytest

from discl.attempts import Attempts


def papers_loop(attempts: Attempts, accepted) -> list[int]:
    """Make `best_of`; while none is accepted and some are left, make one more."""
    made = list(range(attempts.best_of))
    while not any(map(accepted, made)) and len(made) < attempts.most:
        made.append(len(made))
    return made


def random_case(seed: int) -> tuple[Attempts, np.ndarray]:
    random = np.random.default_rng(seed)
    attempts = Attempts(best_of=int(random.integers(1, 5)), retries=int(random.integers(0, 6)))
    return attempts, random.random(attempts.most) < 0.25


@pytest.mark.parametrize("seed", range(200))
def test_the_attempts_are_the_papers_from_every_half_way_state(seed):
    attempts, accepted = random_case(seed)
    expected = papers_loop(attempts, lambda retry: accepted[retry])
    random, made = np.random.default_rng(seed), {}
    while due := attempts.due(made.get):
        assert not set(due) & set(made)
        random.shuffle(due)
        for retry in due[: int(random.integers(1, len(due) + 1))]:  # a kill may leave any part of what was due
            made[retry] = bool(accepted[retry])
    assert sorted(made) == expected


def test_the_papers_rule_is_one_candidate_and_five_retries():
    paper = Attempts(retries=5)
    assert paper.due({}.get) == [0]
    assert [paper.due(dict.fromkeys(range(count), False).get) for count in range(1, 7)] == [[1], [2], [3], [4], [5], []]
    assert paper.due({0: False, 1: True}.get) == []


def test_more_settings_on_the_same_store_add_and_fewer_add_nothing():
    rejected = dict.fromkeys(range(3), False)
    assert Attempts(best_of=5).due(rejected.get) == [3, 4]
    assert Attempts(best_of=1, retries=5).due(rejected.get) == [3]
    assert Attempts().due(rejected.get) == []


@pytest.mark.parametrize("seed", range(50))
def test_the_best_is_the_highest_candidate_else_the_first_retry(seed):
    random = np.random.default_rng(seed)
    attempts = Attempts(best_of=int(random.integers(1, 5)), retries=4)
    rows = [{"retry": retry, "text_score": float(random.choice([0.3, 0.4, 0.5]))} for retry in range(attempts.most)]
    rows = [row for row in rows if random.random() < 0.6] or rows
    random.shuffle(rows)
    candidates = [row for row in rows if row["retry"] < attempts.best_of]
    best = attempts.best(rows)
    if candidates:
        top = max(row["text_score"] for row in candidates)
        assert best["retry"] == min(row["retry"] for row in candidates if row["text_score"] == top)
    else:
        assert best["retry"] == min(row["retry"] for row in rows)


def test_unscored_attempts_rank_by_their_number():
    assert Attempts(best_of=3).best([{"retry": 2, "text_score": None}, {"retry": 1, "text_score": None}])["retry"] == 1
