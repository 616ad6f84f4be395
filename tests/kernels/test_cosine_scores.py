import pytest
import torch
from torch.nn.functional import cosine_similarity

from discl.kernels import cosine_scores, reference

SHAPES = [(17, 5, 33), (1, 1, 1), (3, 1, 5), (1, 7, 512), (4, 3, 130), (0, 3, 8)]  # images, classes, width
DTYPES = [(torch.float32, 1e-6, 1e-6), (torch.bfloat16, 1e-6, 1e-6), (torch.float16, 1e-6, 1e-6)]


def arguments(shape, dtype=torch.float32, device="cpu", threshold=0.1):
    """Vectors of any length, so the normalisation is tested too."""
    count, classes, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    normal = lambda *size: (torch.randn(size, generator=generator) * 3).to(device, dtype)  # noqa: E731
    class_ids = torch.randint(classes, (count,), generator=generator).to(device)
    return normal(count, width), normal(classes, width), class_ids, normal(count, width), threshold


@pytest.mark.parametrize("dtype, atol, rtol", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_reference(shape, dtype, atol, rtol, device):
    values = arguments(shape, dtype, device)
    *scores, keep = cosine_scores(*values)
    *expected, expected_keep = reference.cosine_scores(*values)
    torch.testing.assert_close(scores, expected, atol=atol, rtol=rtol)
    assert torch.equal(keep, expected_keep)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torchs_cosine_similarity(shape):
    embeddings, texts, class_ids, references, threshold = arguments(shape)
    text_score, image_score, margin, keep = cosine_scores(embeddings, texts, class_ids, references, threshold)
    table = cosine_similarity(embeddings[:, None], texts[None], dim=-1)
    own = table.gather(1, class_ids[:, None])[:, 0]
    torch.testing.assert_close(text_score, own, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(image_score, cosine_similarity(embeddings, references), atol=1e-6, rtol=1e-5)
    rivals = [max([-1.0, *(row[:c] + row[c + 1 :])]) for row, c in zip(table.tolist(), class_ids.tolist(), strict=True)]
    torch.testing.assert_close(margin, own - torch.tensor(rivals), atol=1e-6, rtol=1e-5)
    assert torch.equal(keep, text_score >= threshold)


def test_without_references_there_is_no_image_score(device):
    embeddings, texts, class_ids, _, threshold = arguments((4, 3, 9), device=device)
    assert cosine_scores(embeddings, texts, class_ids, None, threshold)[1] is None


def test_zero_vectors_score_zero_and_a_nan_is_not_kept(device):
    embeddings, texts, class_ids, references, _ = arguments((3, 4, 6), device=device)
    embeddings[0] = 0
    embeddings[1, 2] = torch.nan
    for scores in (cosine_scores, reference.cosine_scores):
        text_score, _, margin, keep = scores(embeddings, texts, class_ids, references, -1.0)
        assert text_score[0] == 0 and text_score[1].isnan() and margin[1].isnan()
        assert keep.tolist() == [True, False, True]


def test_a_row_does_not_depend_on_the_others():
    embeddings, texts, class_ids, references, threshold = arguments((9, 11, 130))
    together = cosine_scores(embeddings, texts, class_ids, references, threshold)
    alone = cosine_scores(embeddings[4:5], texts, class_ids[4:5], references[4:5], threshold)
    for crowd, single in zip(together, alone, strict=True):
        assert torch.equal(crowd[4:5], single)


@pytest.mark.parametrize(
    "place, wrong, message",
    [
        (0, torch.zeros(4), r"embeddings: expected .* \[N, D\] on cpu, given float32 \[4\]"),
        (1, torch.zeros(3, 8), r"texts: expected .* \[C, 9\] on cpu, given float32 \[3, 8\]"),
        (1, torch.zeros(0, 9), "texts: expected at least one class, given none"),
        (2, torch.zeros(4).int(), r"class_ids: expected int64 \[4\] on cpu, given int32 \[4\]"),
        (3, torch.zeros(3, 9), r"references: expected .* \[4, 9\] on cpu, given float32 \[3, 9\]"),
    ],
)
def test_says_what_was_given_and_what_is_expected(place, wrong, message):
    values = list(arguments((4, 3, 9)))
    values[place] = wrong
    with pytest.raises(ValueError, match=message):
        cosine_scores(*values)
