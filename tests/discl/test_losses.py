"""Losses against their formulas."""

import numpy as np
import pytest
import torch

from discl.losses import IGNORED, classification_loss, log_prior, no_prior


def example(seed=0, rows=7, classes=5):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=random), torch.randint(classes, (rows,), generator=random)


def test_without_a_prior_it_is_cross_entropy():
    logits, labels = example()
    expected = -torch.log_softmax(logits, 1)[torch.arange(7), labels].mean()
    torch.testing.assert_close(classification_loss(logits, labels, no_prior(np.ones(5))), expected)


def test_balanced_softmax_is_its_formula():
    logits, labels = example()
    counts = np.array([50.0, 20.0, 8.0, 3.0, 1.0])
    weighted = torch.from_numpy(counts).float() * logits.exp()
    expected = -torch.log(weighted[torch.arange(7), labels] / weighted.sum(1)).mean()
    torch.testing.assert_close(classification_loss(logits, labels, log_prior(counts)), expected)


def test_balanced_softmax_by_hand():
    """Equal logits, three images against one: the rare class has a quarter, the other three quarters."""
    loss = classification_loss(torch.zeros(2, 2), torch.tensor([0, 1]), log_prior(np.array([3, 1])))
    assert loss.item() == pytest.approx((np.log(4 / 3) + np.log(4)) / 2, abs=1e-6)


def test_equal_counts_change_nothing():
    logits, labels = example()
    torch.testing.assert_close(
        classification_loss(logits, labels, log_prior(np.full(5, 37))),
        classification_loss(logits, labels, no_prior(np.full(5, 37))),
    )


def test_a_class_without_images_is_safe():
    logits, labels = example()
    logits.requires_grad_()
    loss = classification_loss(logits, labels.clamp(max=3), log_prior(np.array([5, 5, 5, 5, 0])))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("seed", range(3))
def test_padding_does_not_count(seed):
    logits, labels = example(seed)
    padded = torch.cat([labels, torch.full((3,), IGNORED)])
    more = torch.cat([logits, torch.randn(3, 5)])
    prior = torch.randn(5)
    torch.testing.assert_close(classification_loss(more, padded, prior), classification_loss(logits, labels, prior))


def test_half_precision_logits_give_a_float_loss():
    logits, labels = example()
    assert classification_loss(logits.bfloat16(), labels, no_prior(np.ones(5))).dtype == torch.float32
