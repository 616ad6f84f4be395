import pytest
import torch
from torch.nn.functional import cosine_similarity

from discl.kernels import reference, score_rows
from discl.kernels.score_rows import BINS

# images, classes, width, levels
SHAPES = [
    (17, 5, 33, 2),
    (1, 1, 1, 1),
    (70, 130, 65, 3),
    (130, 3, 200, 4),
    (9, 64, 40, 2),
    (9, 65, 40, 2),
    (0, 3, 8, 1),
]
DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 1e-5), (torch.float16, 1e-5)]


def arguments(shape, dtype=torch.float32, device="cpu", threshold=0.05):
    count, classes, width, levels = shape
    generator = torch.Generator().manual_seed(sum(shape))
    normal = lambda *size: (torch.randn(size, generator=generator) * 3).to(device, dtype)  # noqa: E731
    class_ids, level = (torch.randint(top, (count,), generator=generator).to(device) for top in (classes, levels))
    return normal(count, width), normal(classes, width), class_ids, level, normal(count, width), threshold, levels


@pytest.mark.parametrize("dtype, tolerance", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_reference(shape, dtype, tolerance, device):
    values = arguments(shape, dtype, device)
    ours, expected = score_rows(*values), reference.score_rows(*values)
    for name in ("text_score", "image_score", "margin"):
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name), atol=tolerance, rtol=tolerance)
    for name in ("rank", "keep", "accepted", "counts", "histogram"):
        assert torch.equal(getattr(ours, name), getattr(expected, name)), name


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_a_plain_loop_over_torchs_cosines(shape):
    embeddings, texts, class_ids, levels, references, threshold, level_count = arguments(shape)
    found = score_rows(embeddings, texts, class_ids, levels, references, threshold, level_count)
    counts = torch.zeros(len(texts), level_count, dtype=torch.int32)
    histogram = torch.zeros(len(texts), level_count, BINS, dtype=torch.int32)
    kept = []
    for at, (label, level) in enumerate(zip(class_ids.tolist(), levels.tolist(), strict=True)):
        cosines = [cosine_similarity(embeddings[at], text, dim=0).item() for text in texts]
        others = cosines[:label] + cosines[label + 1 :]
        own = found.text_score[at].item()
        assert own == pytest.approx(cosines[label], abs=1e-6)
        assert found.margin[at].item() == pytest.approx(cosines[label] - max([-1.0, *others]), abs=2e-6)
        assert found.rank[at] == 1 + sum(other > cosines[label] for other in others)
        kept += [at] if own >= threshold else []
        counts[label, level] += own >= threshold
        histogram[label, level, min(int((own + 1) * BINS / 2), BINS - 1)] += 1
    assert found.accepted.tolist() == kept
    assert torch.equal(found.keep.nonzero()[:, 0], found.accepted)
    assert torch.equal(found.counts, counts) and torch.equal(found.histogram, histogram)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ten_thousand_classes_of_the_widest_tower(dtype, device):
    classes, width = 10_000, 1280
    generator = torch.Generator().manual_seed(5)
    texts = torch.randn(classes, width, generator=generator).to(device, dtype)
    labels = torch.tensor([0, 9_999, 4_321], device=device)
    # In the interpreter a tile takes as long for 3 images as for 64.
    images = texts[labels] + torch.randn(3, width, generator=generator).to(device, dtype)
    images[1] = texts[17]  # shows another class
    found = score_rows(images, texts, labels, torch.tensor([0, 1, 0], device=device), None, 0.5, 2)
    cosines = cosine_similarity(images.double()[:, None], texts.double()[None], dim=2)
    own = cosines.gather(1, labels[:, None])
    best_other = cosines.scatter(1, labels[:, None], -1.0).amax(1)
    torch.testing.assert_close(found.text_score.double(), own[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.margin.double(), own[:, 0] - best_other, atol=1e-5, rtol=0)
    assert torch.equal(found.rank.long(), 1 + (cosines > own).sum(1))
    assert found.accepted.tolist() == [0, 2] and found.counts.sum() == 2
    assert found.counts[0, 0] == found.counts[4_321, 0] == 1
    assert found.histogram.sum() == 3


def test_without_references_and_with_nan_and_zero_vectors(device):
    embeddings, texts, class_ids, levels, _, _, level_count = arguments((5, 4, 6, 2), device=device)
    embeddings[0] = 0
    embeddings[1, 2] = torch.nan
    for scores in (score_rows, reference.score_rows):
        found = scores(embeddings, texts, class_ids, levels, None, -1.0, level_count)
        assert found.image_score is None
        assert found.text_score[0] == 0 and found.text_score[1].isnan() and found.margin[1].isnan()
        assert found.accepted.tolist() == [0, 2, 3, 4]
        assert found.histogram.sum() == 4


def test_a_reference_in_pieces_is_the_whole(monkeypatch):
    values = arguments((50, 7, 16, 3))
    whole = reference.score_rows(*values)
    monkeypatch.setattr(reference, "COSINES", 20)
    pieces = reference.score_rows(*values)
    torch.testing.assert_close(pieces.margin, whole.margin)
    assert torch.equal(pieces.histogram, whole.histogram)


@pytest.mark.parametrize(
    "place, wrong, message",
    [
        (1, torch.zeros(3, 8), r"texts: expected .* \[C, 9\] on cpu, given float32 \[3, 8\]"),
        (3, torch.zeros(4).int(), r"levels: expected int64 \[4\] on cpu, given int32 \[4\]"),
        (6, 0, "level_count: expected at least one"),
    ],
)
def test_says_what_was_given_and_what_is_expected(place, wrong, message):
    values = list(arguments((4, 3, 9, 2)))
    values[place] = wrong
    with pytest.raises(ValueError, match=message):
        score_rows(*values)
