"""The result table: its rows, equal steps, and means over seeds."""

import numpy as np
import pytest

from discl.config import CurriculumConfig, RunConfig, TrainConfig
from discl.methods import GROUPS, Method, methods_of, summary

NAMES = [
    "ce", "ce-resampled", "text-only", "fixed-0", "fixed-10", "fixed-30", "all-level", "specific-to-diverse",
    "diverse-to-specific", "bs", "bs-diverse-to-specific",
]  # fmt: skip


def test_the_rows_have_the_promised_names():
    assert [method.name for method in methods_of([30, 0, 10])] == NAMES


def test_without_level_zero_there_is_no_text_only():
    assert "text-only" not in [method.name for method in methods_of([50, 70])]


def test_every_level_has_its_fixed_row():
    assert [m.level for m in methods_of([70, 50]) if m.name.startswith("fixed")] == [50, 70]


def test_a_method_changes_policy_loss_level_and_seed_alone(tmp_path):
    for name in ("data", "model"):
        (tmp_path / name).mkdir()
    config = RunConfig.model_validate(
        {"data": {"kind": "imagefolder", "root": "data"}, "model": {"path": "model"}, "store": {}},
        context={"folder": tmp_path},
    )
    changed = Method("x", "fixed", "balanced-softmax", 30).configure(config, 7)
    curriculum = CurriculumConfig(**config.curriculum.model_dump() | {"policy": "fixed", "level": 30})
    train = TrainConfig.model_validate(
        config.train.model_dump() | {"loss": "balanced-softmax", "seed": 7}, context={"folder": tmp_path}
    )
    assert changed == config.model_copy(update={"curriculum": curriculum, "train": train})


@pytest.mark.parametrize("seed", range(3))
def test_summary_is_the_mean_and_the_sample_deviation(seed):
    scores = np.random.default_rng(seed).random((2, 5, len(GROUPS)))
    records = [
        {"method": f"m{m}", "seed": s, "test": dict(zip(GROUPS, scores[m, s].tolist(), strict=True))}
        for m in range(2)
        for s in range(5)
    ]
    table = summary(records, "test")
    for m in range(2):
        for g, group in enumerate(GROUPS):
            assert table[f"m{m}"][group]["mean"] == pytest.approx(scores[m, :, g].mean())
            assert table[f"m{m}"][group]["std"] == pytest.approx(scores[m, :, g].std(ddof=1))


def test_a_group_without_images_is_left_out():
    record = {"method": "ce", "test": {"overall": 0.5, "many": None, "medium": 0.5, "few": 0.25}}
    assert summary([record], "test") == {
        "ce": {group: {"mean": record["test"][group], "std": 0.0} for group in ("overall", "medium", "few")}
    }
    assert summary([record], "val") == {"ce": {}}
