"""Metrics against scikit-learn and a hand-worked case."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, recall_score

from discl.evaluation import macro_f1, metrics, predict, shift, worst


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_and_accuracy_are_scikit_learns(seed):
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 12))
    labels = random.integers(0, classes, 60)
    guesses = np.where(random.random(60) < 0.5, labels, random.integers(0, classes + 2, 60))
    present = np.unique(labels)
    expected = f1_score(labels, guesses, labels=present, average="macro", zero_division=0)
    assert macro_f1(labels, guesses) == pytest.approx(expected)
    result = metrics(labels, guesses, np.arange(classes), 3, 6)
    assert result["overall"] == pytest.approx(accuracy_score(labels, guesses))
    recalls = recall_score(labels, guesses, labels=present, average=None, zero_division=0)
    assert [result["per_class"][label] for label in present] == pytest.approx(recalls)


def test_groups_follow_the_original_counts_and_pool_their_images():
    counts = [100, 99, 20, 19]
    labels = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    guesses = np.array([0, 1, 1, 1, 0, 0, 3, 3])
    result = metrics(labels, guesses, counts, few_below=20, many_from=100)
    assert result["many"] == 1 / 2
    assert result["medium"] == 2 / 4  # classes of 99 and 20, by images, not by classes
    assert result["few"] == 1
    assert result["overall"] == 5 / 8


def test_a_group_without_images_has_no_number():
    result = metrics(np.array([0]), np.array([0]), [5, 200], 20, 100)
    assert (result["many"], result["medium"], result["few"]) == (None, None, 1.0)
    assert result["per_class"] == [1.0, None]


def test_no_images_at_all():
    assert metrics(np.empty(0, np.int64), np.empty(0, np.int64), [1, 2], 20, 100)["overall"] is None


def test_predict_takes_the_largest_logit_in_evaluation_mode():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(3, 3, bias=False))
    torch.nn.init.eye_(model[2].weight)
    images = torch.eye(3).reshape(3, 1, 1, 3)
    batches = [{"image": images, "label": torch.tensor([0, 1, 0])}] * 2
    labels, guesses = predict(model, batches)
    assert labels.tolist() == [0, 1, 0] * 2
    assert guesses.tolist() == [0, 1, 2] * 2


def test_the_worst_classes_by_hand():
    """Accuracies 1, 0, 1/2 and none: the worst is 0, the worst two have the mean 1/4."""
    assert worst([1.0, 0.0, None, 0.5], 2) == 0.25
    labels, guesses = np.arange(12) % 12, np.where(np.arange(12) < 3, 0, np.arange(12))
    result = metrics(labels, guesses, np.arange(12), 3, 6)
    assert result["worst"] == {"1": 0.0, "10": 8 / 10}


@pytest.mark.parametrize("seed", range(3))
def test_compensation_divides_by_the_class_shares_and_renormalises(seed):
    random = np.random.default_rng(seed)
    counts, logits = np.array([90, 9, 1]), random.normal(size=(20, 3)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) / (counts / 100)
    shares /= shares.sum(1, keepdims=True)
    compensated = torch.softmax(torch.from_numpy(logits) - shift(counts), 1)
    np.testing.assert_allclose(compensated.numpy(), shares, rtol=1e-5)
    batches = [{"image": torch.from_numpy(logits).reshape(-1, 3, 1, 1), "label": torch.zeros(20, dtype=torch.int64)}]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3, bias=False))
    torch.nn.init.eye_(model[1].weight)
    assert predict(model, batches, shift(counts))[1].tolist() == shares.argmax(1).tolist()
    assert torch.isfinite(shift([5, 0])).all(), "a class without training images counts as one with one"
