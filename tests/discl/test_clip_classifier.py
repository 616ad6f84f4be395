"""FLYP and CLIP classifiers against their formulas, with the demo's CLIP."""

from importlib.resources import files

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from discl.clip_classifier import ClipClassifier, blend
from discl.errors import ConfigError
from discl.learner import Learner
from discl.losses import IGNORED

NAMES = ("Zero", "one", "two")
CLIP = f"clip:{files('discl.demo') / 'assets' / 'clip'}"


def images(rows, seed=0):
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_the_head_is_the_mean_of_normalised_texts():
    model = ClipClassifier(CLIP, NAMES, ("a photo of a {class}", "{class}")).eval()
    import open_clip

    tokenize = open_clip.get_tokenizer(f"local-dir:{CLIP[5:]}")
    with torch.inference_mode():
        heads = []
        for name in ("zero", "one", "two"):
            texts = F.normalize(model.clip.encode_text(tokenize([f"a photo of a {name}", name])), dim=-1)
            heads.append(F.normalize(texts.mean(0), dim=0))
        x = images(4)
        features = F.normalize(model.clip.encode_image(x), dim=-1)
        expected = features @ torch.stack(heads).T * model.clip.logit_scale.exp()
        torch.testing.assert_close(model(x), expected)


def test_the_contrastive_loss_is_open_clips_and_padding_does_not_count():
    from open_clip.loss import ClipLoss

    model = ClipClassifier(CLIP, NAMES).train()
    labels, x = torch.tensor([2, 0, 2, 1]), images(4)
    texts = model.captions[labels, torch.arange(4) % 2]
    image = F.normalize(model.clip.encode_image(x), dim=-1)
    text = F.normalize(model.clip.encode_text(texts), dim=-1)
    expected = ClipLoss()(image, text, model.clip.logit_scale.exp())
    torch.testing.assert_close(model.contrastive(x, labels), expected)
    assert model.turn == 1
    model.turn.zero_()
    padded = torch.cat([labels, torch.full((3,), IGNORED)])
    loss = model.contrastive(torch.cat([x, images(3, 1)]), padded, torch.tensor(4.0))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.clip.visual.parameters())


def test_a_contrastive_learner_needs_a_clip():
    with pytest.raises(ConfigError, match="'flyp' needs a CLIP"):
        Learner("digitnet", 3, 4, contrastive=True)
    learner = Learner(CLIP, NAMES, 4, contrastive=True)
    before = learner.loss(images(4), torch.tensor([0, 1, 2, 0]), torch.zeros(3))
    torch.testing.assert_close(before, before)
    learner.model.clip.logit_scale.data.zero_()
    learner.reset(0)
    assert learner.model.clip.logit_scale.exp() > 1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blending_is_linear(share):
    model = torch.nn.Linear(2, 3)
    random = np.random.default_rng(0)
    before, after = (
        {name: torch.tensor(random.normal(size=value.shape), dtype=torch.float32) for name, value in
         model.state_dict().items()} for _ in range(2)
    )  # fmt: skip
    blend(model, before, after, share)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, (1 - share) * before[name] + share * after[name])
