"""What a sampler refuses at its door: values of another type or out of range, each named with its remedy."""

import numpy as np
import pytest

from discl.errors import ConfigError
from discl.sampler import CurriculumSampler
from tests.discl.test_curriculum import config, dataset
from tests.discl.test_sampler import sampler


@pytest.mark.parametrize(
    "given",
    [
        {"batch": 0},
        {"batch": -4},
        {"batch": 2.5},
        {"world": 0},
        {"rank": 2, "world": 2},
        {"rank": -1},
        {"seed": -1},
        {"seed": "x"},
    ],
)
def test_what_counts_nothing_is_refused(given):
    with pytest.raises(ConfigError, match=r"CurriculumSampler\(\w+=.*\): give a whole number"):
        sampler(**given)


@pytest.mark.parametrize("state", [{}, {"epoch": 3}, None])
def test_what_is_no_state_is_named(state):
    with pytest.raises(ConfigError, match="no state of a CurriculumSampler"):
        sampler().load_state_dict(state)


@pytest.mark.parametrize("state", [5, "epoch", [("epoch", 1)]])
def test_a_state_of_another_type_is_named(state):
    with pytest.raises(ConfigError, match="no state of a CurriculumSampler"):
        sampler().load_state_dict(state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": -1},
        {"epoch": "1"},
        {"step": -1},
        {"step": 3},  # an epoch has 3 steps
        {"feedback": {}},
        {"feedback": {"progress": 5, "class_levels": [], "weights": None}},
        {"frozen": [[0]]},
        {"frozen": [[-2, {"progress": [], "class_levels": [], "weights": None}]]},
    ],
)
def test_a_state_with_a_wrong_value_is_refused_and_changes_nothing(wrong):
    source = sampler()
    next(iter(source))
    before = source.state_dict()
    with pytest.raises(ConfigError, match=r"give (a whole number|state_dict)"):
        source.load_state_dict(before | wrong)
    assert source.state_dict() == before


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"dataset": "images/"}, r"dataset='images/'\): it has no class_names.* give a discl\.SpectrumDataset"),
        ({"dataset": None}, "give a discl.SpectrumDataset"),
        ({"curriculum": "diverse-to-specific"}, r"it has no policy.* give load_config\(file\)\.curriculum"),
        ({"curriculum": {"policy": "fixed"}}, r"give load_config\(file\)\.curriculum"),
        ({"levels": 30}, "give image-guidance levels"),
        ({"levels": "30"}, "give image-guidance levels"),
        ({"levels": [0.5]}, "give a whole number from 0 to 100"),
    ],
)
def test_what_is_of_the_wrong_kind_is_named_with_its_remedy(given, advice):
    with pytest.raises(ConfigError, match=advice):
        CurriculumSampler(**({"dataset": dataset(), "curriculum": config(), "batch": 16, "seed": 3} | given))


@pytest.mark.parametrize("p", [float("nan"), float("inf"), None, "high"])
def test_a_probability_that_is_not_finite_is_refused(p):
    with pytest.raises(ConfigError, match="finite"):
        sampler().observe(0, p, 0.5)


def test_what_was_observed_of_no_level_is_refused():
    with pytest.raises(ConfigError, match=r"observe\(level='low'\): give a whole number from 0 to 100"):
        sampler().observe("low", 0.1, 0.5)


@pytest.mark.parametrize("levels", [[0, 1], {"x": 1}, {0: "high"}, {0: None}])
def test_class_levels_of_another_form_are_refused(levels):
    with pytest.raises(ConfigError, match=r"set_class_levels\(.*\): give class -> level"):
        sampler().set_class_levels(levels)


def test_weights_that_are_no_numbers_are_refused():
    with pytest.raises(ConfigError, match="weights must be numbers"):
        sampler().set_weights("even")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(5), r"weights of shape \[5\]; give one for each of the dataset's 69 rows"),
        (np.full(69, np.nan), "weights must be finite"),
        (np.full(69, -1.0), "weights must be finite and not negative"),
        (np.zeros(69), "some must be positive"),
    ],
)
def test_weights_that_mean_nothing(weights, message):
    with pytest.raises(ConfigError, match=message):
        sampler().set_weights(weights)
