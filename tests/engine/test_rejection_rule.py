"""Calibrated rules keep their promise on samples they have not seen, and say so where they cannot promise anything."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from discl import DisclError
from discl.engine.rejection.bound import bound_rank, interval, level_limit, needed
from discl.engine.rejection.calibration import calibrate, with_bounds
from discl.engine.rejection.logistic import KNOTS, RIDGE, Logistic
from discl.engine.rejection.rule import Rule
from discl.engine.rejection.search import candidate_checks, cost, saving
from discl.engine.rejection.traces import load_traces, save_traces
from tests.engine.rejection_samples import MADE_FOR, STEPS, THRESHOLDS, empty_rule, invented, rejected

LIMITS = (0.0, 0.005, 0.02, 0.1, 0.3)


@pytest.fixture(scope="module")
def rule() -> Rule:
    rng = np.random.default_rng(5)
    fit, held = invented(900, rng), invented(900, rng)
    return calibrate(MADE_FOR, empty_rule(0.1).decoder, ("a 0", "a 1"), [fit], [held], THRESHOLDS, 0.1, True)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("count", [0, 1, 10, 113, 114, 500, 3000])
def test_the_rank_is_the_largest_whose_share_is_below_the_limit_often_enough(count, limit):
    """The k-th smallest of n uniforms exceeds x as often as a binomial(n, x) is below k."""
    rank = bound_rank(count, limit)
    promise = lambda k: stats.binom.cdf(k - 1, count, limit)  # P(k-th smallest > limit)  # noqa: E731
    assert rank == 0 or 1 - promise(rank) >= 0.9 - 1e-9
    assert rank == count or 1 - promise(rank + 1) < 0.9 + 1e-9
    assert (rank > 0) == (count >= needed(limit))


def test_the_rank_never_falls():
    ranks = np.array([[bound_rank(count, limit) for limit in (*LIMITS, 1.0)] for count in range(0, 400, 7)])
    assert (np.diff(ranks, axis=0) >= 0).all() and (np.diff(ranks, axis=1) >= 0).all()


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (0, 50), (3, 50), (50, 50), (7, 4000)])
def test_intervals_are_scipys_exact_ones(hits, count):
    exact = stats.binomtest(hits, count).proportion_ci(0.95, "exact")
    np.testing.assert_allclose(interval(hits, count), (exact.low, exact.high), atol=1e-12)


def test_logistic_regression_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 4))
    positive = features[:, 0] ** 2 + features[:, 3] + rng.normal(size=400) > 1
    ours = Logistic.fit(features, 2, positive)
    knots = np.quantile(features[:, :2], KNOTS, axis=0)
    columns = np.hstack([features, *(np.maximum(features[:, :2] - knot, 0) for knot in knots)])
    columns = (columns - columns.mean(0)) / columns.std(0)
    theirs = LogisticRegression(C=1 / RIDGE, tol=1e-9, max_iter=5000).fit(columns, positive)
    np.testing.assert_allclose(ours(features), theirs.decision_function(columns), atol=2e-3)
    one_by_one = np.concatenate([ours(row[None]) for row in features])
    np.testing.assert_array_equal(one_by_one, ours(features))


@pytest.mark.parametrize("seed", [0, 1])
def test_false_rejects_stay_below_the_limit_on_fresh_samples(rule, seed):
    """300 bounds from 300 held-out sets; each one's true rate is estimated on 20,000 fresh accepted samples."""
    rng = np.random.default_rng(seed)
    fresh = invented(40_000, rng)
    value = rule.decide(fresh).value.min(1)[fresh.accepted]
    for limit in (0.02, 0.1):
        narrow = replace(rule, limit=limit)
        bounds = [with_bounds(narrow, [invented(400, rng)]).levels[0].bound for _ in range(300)]
        rates = np.array([np.mean(value < bound) for bound in bounds])
        assert (rates <= limit).mean() >= 0.85, f"seed {seed}, limit {limit}: {np.quantile(rates, [0.5, 0.9])}"
        assert rates.mean() > 0.2 * limit, f"seed {seed}: the bound is needlessly low"


@pytest.mark.parametrize("seed", [0, 1])
def test_the_limit_holds_for_all_levels_together_and_no_level_has_much_more(seed):
    """Two levels of as many steps, of which one shows almost nothing: one bound, and one limit."""
    rng = np.random.default_rng(seed)
    levels = {0: 0.1, 30: 1.0}  # how much their previews say
    make = lambda count: [invented(count, rng, *each) for each in levels.items()]  # noqa: E731
    rule = calibrate(MADE_FOR, empty_rule(0.1).decoder, (), make(900), make(900), THRESHOLDS, 0.1, True)
    fresh = make(5000)
    assert rule.levels[0].bound == rule.levels[30].bound
    rates, pooled = {level: [] for level in levels}, []
    for _ in range(80):
        bounded = with_bounds(rule, make(400))
        wrong = {each.level: rejected(bounded, each)[each.accepted] for each in fresh}
        for level, gone in wrong.items():
            rates[level].append(gone.mean())
        pooled.append(np.concatenate(list(wrong.values())).mean())
    assert (np.array(pooled) <= 0.1).mean() >= 0.85, f"seed {seed}"
    assert all((np.array(rate) <= level_limit(0.1)).mean() >= 0.85 for rate in rates.values()), f"seed {seed}"


def test_more_false_rejects_allowed_never_reject_fewer(rule):
    rng = np.random.default_rng(3)
    held, fresh = invented(2000, rng), invented(2000, rng)
    before = np.zeros(len(fresh), bool)
    for limit in LIMITS:
        now = rejected(with_bounds(replace(rule, limit=limit), [held]), fresh)
        assert (now | ~before).all()
        assert now.any() == (limit > 0)
        before = now


def test_a_rule_saves_rows_and_rejects_the_worse(rule):
    fresh = invented(3000, np.random.default_rng(9))
    level, decided = rule.levels[0], rule.decide(fresh)
    spent, gone = cost(decided.looked, decided.value < level.bound, [c.step for c in level.checks], STEPS, 2.0, 1.0)
    assert saving(spent, gone, fresh.accepted, 2.0 * STEPS) > 0.1
    assert fresh.score[gone].mean() < fresh.score[~gone].mean() - 0.03
    np.testing.assert_array_equal(gone, rejected(rule, fresh))


def test_what_rejection_costs():
    """Three checks after 2, 5 and 9 of 10 steps, two rows a step, a look as dear as half a row."""
    looked = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)
    below = np.array([[0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]], bool)
    spent, gone = cost(looked, below, [2, 5, 9], 10, 2.0, 0.5)
    np.testing.assert_array_equal(spent, [21.5, 11.0, 20.5, 20.0, 4.5])
    np.testing.assert_array_equal(gone, [False, True, False, False, True])


def test_previews_that_say_nothing_do_no_harm():
    rng = np.random.default_rng(2)
    fit, held, fresh = (invented(600, rng, informative=0.0) for _ in range(3))
    rule = calibrate(MADE_FOR, empty_rule(0.02).decoder, (), [fit], [held], THRESHOLDS, 0.02, True)
    gone = rejected(rule, fresh)
    assert (gone & fresh.accepted).sum() / fresh.accepted.sum() < 0.05


@pytest.mark.parametrize(("count", "limit"), [(60, 0.02), (900, 0.0), (30, 0.3)])
def test_a_level_with_too_few_samples_is_never_rejected_and_says_so(caplog, count, limit):
    rng = np.random.default_rng(1)
    traces = invented(count, rng), invented(count, rng)
    rule = calibrate(MADE_FOR, empty_rule(limit).decoder, (), [traces[0]], [traces[1]], THRESHOLDS, limit, True)
    assert rule.levels[0].bound is None and rule.levels[0].calibration["problem"]
    assert "level 0 is not rejected early" in caplog.text
    assert not rejected(rule, invented(100, rng)).any()


def test_a_rule_is_a_function_of_the_traces(rule):
    rng = np.random.default_rng(5)
    again = calibrate(
        MADE_FOR, rule.decoder, ("a 0", "a 1"), [invented(900, rng)], [invented(900, rng)], THRESHOLDS, 0.1, True
    )
    assert again.encoded() == rule.encoded()


def test_the_file_gives_the_same_verdicts(rule, tmp_path):
    (tmp_path / "rule.json").write_bytes(rule.encoded())
    loaded = Rule.load(tmp_path / "rule.json")
    fresh = invented(200, np.random.default_rng(4))
    for ours, theirs in zip(rule.decide(fresh), loaded.decide(fresh), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.encoded() == rule.encoded()
    assert loaded.levels[0].bound == rule.levels[0].bound


@pytest.mark.parametrize("damage", ["", "{}", '{"format": "something else"}', "[1, 2"])
def test_a_file_that_is_no_rule_is_named(tmp_path, damage):
    (tmp_path / "rule.json").write_text(damage)
    with pytest.raises(DisclError, match=r"rule\.json: no rule for early rejection"):
        Rule.load(tmp_path / "rule.json")


def test_a_rule_that_is_not_there_is_looked_for_elsewhere(tmp_path):
    with pytest.raises(DisclError, match=r"No such file.*rule\.json'; check its path"):
        Rule.load(tmp_path / "rule.json")


def test_a_truncated_rule_is_named(rule, tmp_path):
    value = json.loads(rule.encoded())
    del value["levels"][0]["checks"][0]["chance"]["knots"]
    (tmp_path / "rule.json").write_text(json.dumps(value))
    with pytest.raises(DisclError, match="knots"):
        Rule.load(tmp_path / "rule.json")


def test_thresholds_are_the_classs_then_the_levels_then_the_default():
    rule = replace(empty_rule(0.1), threshold={"default": 0.3, "classes": {"fox": 0.2}, "levels": {"50": 0.4}})
    assert [rule.threshold_of(*place) for place in (("fox", 50), ("cat", 50), ("cat", 0), (None, 0))] == [
        0.2, 0.4, 0.3, 0.3,
    ]  # fmt: skip


def test_traces_survive_their_file(tmp_path):
    rng = np.random.default_rng(0)
    traces = [invented(20, rng, level) for level in (0, 30)]
    save_traces(tmp_path / "traces.npz", traces)
    for ours, theirs in zip(traces, load_traces(tmp_path / "traces.npz"), strict=True):
        assert (ours.level, ours.steps, ours.checks) == (theirs.level, theirs.steps, theirs.checks)
        for name in ("key", "group", "text", "looks", "source", "score", "threshold"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    (tmp_path / "traces.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DisclError, match="no traces"):
        load_traces(tmp_path / "traces.npz")


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 20, 50, 1000])
def test_candidate_checks_leave_steps_to_save(steps):
    checks = candidate_checks(steps)
    assert all(1 <= check <= steps - 2 for check in checks) and list(checks) == sorted(set(checks))
    assert (len(checks) > 0) == (steps >= 3)
