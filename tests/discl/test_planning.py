"""Plans in time and money: laws of the estimate, the budget against brute force, FLOPs against a published figure."""

import json
import random
from dataclasses import dataclass, field
from itertools import product
from types import SimpleNamespace

import pytest
from PIL import Image

from discl.attempts import Attempts
from discl.cli import main
from discl.config import BudgetConfig
from discl.errors import ConfigError, RunFailed
from discl.level_work import LevelWork
from discl.planning.budget import choose
from discl.planning.estimate import attempts_per_wish, estimate, preemption_waste
from discl.planning.rates import Rates
from discl.planning.rows import of_rows
from discl.planning.work import Flops, flops_of
from tests.discl.project import fake, loaded, make_project, without_score


@dataclass
class Plan:
    """What an estimate reads of a plan."""

    levels: tuple[int, ...] = (0, 10, 30, 50)
    seeds: tuple[int, ...] = (1, 2, 3, 4)
    sources: range = range(100)
    attempts: Attempts = field(default_factory=Attempts)

    @property
    def spectrum(self):
        return SimpleNamespace(levels=self.levels, seeds=self.seeds)

    @property
    def work(self):
        return {level: LevelWork(100 - level, 2 * (100 - level)) for level in self.levels}


RATES = Rates(per_evaluation=0.01, per_image=0.5, load=60, basis="made up")


def test_hours_and_money_add_up():
    cost = estimate(Plan(), RATES, BudgetConfig(usd_per_hour=2.0))
    images, evaluations = 100 * 4 * 4, 100 * 4 * 2 * (100 + 90 + 70 + 50)
    assert (cost.attempts, cost.evaluations) == (images, evaluations)
    assert cost.hours == pytest.approx((0.01 * evaluations + 0.5 * images + 60) / 3600)
    assert cost.usd == pytest.approx(2 * cost.hours)
    assert cost.accepted is None, "nothing was measured"


@pytest.mark.parametrize(
    ("share", "best_of", "retries"), [(0.3, 1, 5), (0.7, 3, 2), (0.0, 2, 4), (1.0, 1, 5), (0.5, 1, 0)]
)
def test_expected_attempts_are_those_of_a_simulation(share, best_of, retries):
    chance = random.Random(0)
    attempts = Attempts(best_of, retries)
    total = 0
    for _ in range(20_000):
        known: dict[int, bool] = {}
        while due := attempts.due(known.get):
            known |= {retry: chance.random() < share for retry in due}
        total += len(known)
    assert attempts_per_wish(share, best_of, retries) == pytest.approx(total / 20_000, rel=0.02)


def test_preemption_waste():
    assert preemption_waste(0, 60) == 0
    assert preemption_waste(3, 60) == pytest.approx(120 / 10800)
    waste = estimate(Plan(), RATES, BudgetConfig(preemption_hours=3))
    assert waste.hours == pytest.approx(estimate(Plan(), RATES, BudgetConfig()).hours / (1 - 120 / 10800))


@pytest.mark.parametrize("keep", ["levels", "seeds"])
def test_the_choice_is_the_first_that_fits_in_the_stated_order(keep):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    everything = estimate(Plan(), RATES, BudgetConfig(usd_per_hour=1.0)).usd
    for _ in range(30):
        wanted = tuple(chance.sample((0, 10, 30, 50), chance.randrange(5)))
        usd = everything * chance.uniform(0.01, 1.2)
        budget = BudgetConfig(usd_per_hour=1.0, usd=usd, keep=keep, levels=wanted)
        ranked = [*wanted, *(level for level in (0, 10, 30, 50) if level not in wanted)]
        fitting = [
            (count, seeds)
            for count, seeds in product(range(1, 5), range(1, 5))
            if estimate(Plan(), RATES, budget, ranked[:count], seeds).usd <= usd
        ]
        found = choose(Plan(), RATES, budget)
        if not fitting:
            assert found is None
            continue
        count, seeds = max(fitting, key=lambda pair: pair if keep == "levels" else pair[::-1])
        assert (set(found.levels), found.seeds) == (set(ranked[:count]), seeds)
        assert found.cut_seeds == 4 - seeds and set(found.cut_levels) == set(ranked[count:])


def test_hours_are_those_of_all_workers():
    hours = estimate(Plan(), RATES, BudgetConfig(workers=8)).hours
    assert hours == pytest.approx(estimate(Plan(), RATES, BudgetConfig()).hours + 7 * 60 / 3600), "each starts"
    assert not choose(Plan(), RATES, BudgetConfig(hours=hours / 8 * 1.01, workers=8)).cut
    assert choose(Plan(), RATES, BudgetConfig(hours=hours / 8 * 0.99, workers=8)).cut


def test_what_cannot_be_chosen_is_said():
    with pytest.raises(ConfigError, match="needs usd_per_hour"):
        choose(Plan(), RATES, BudgetConfig(usd=5.0))
    with pytest.raises(ConfigError, match=r"\[20\] are not in"):
        choose(Plan(), RATES, BudgetConfig(hours=5.0, levels=(20,)))


def test_flops_of_stable_diffusion(tmp_path):
    """Published: 339 G multiply-adds of the UNet at 64 x 64, see arXiv 2306.00980; 2 operations each."""
    unet = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64,
            "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2}  # fmt: skip
    vae = {"latent_channels": 4, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
           "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}  # fmt: skip
    for name, settings in (("unet", unet), ("vae", vae)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(settings))
    config = SimpleNamespace(score=SimpleNamespace(clip="ViT-B-32:openai"))
    flops = flops_of(config, SimpleNamespace(folder=tmp_path), (512, 512))
    assert flops.evaluation == pytest.approx(2 * 339e9, rel=0.2)
    assert flops.decode == pytest.approx(2 * 1.24e12, rel=0.2)
    assert flops.score == pytest.approx(2 * 4.4e9, rel=0.2)


def test_plan_and_actual_stand_side_by_side(tmp_path, tiny_models, fake_weights, capsys):
    file = make_project(tmp_path, tiny_models)
    config = loaded(file)
    store = fake(file, f"store.path={config.store.path}.probe", "spectrum.seeds=2")
    store = fake(file)
    (real,) = (store.path / "runs").glob("*.json")
    (probed,) = (tmp_path / "store.probe" / "runs").glob("*.json")
    run = json.loads(real.read_text())
    run["seconds"]["generate"], run["unet_evaluations"] = 3600.0, 5 * 2 * (8 + 4)
    for path in (real, probed):
        path.write_text(json.dumps(run))
    assert main(["plan", str(file), "--set", "budget.usd_per_hour=2.0", "--set", "budget.usd=1.1"]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert rows["worker-hours"][1:3] == ["1", "1"] and rows["USD"][1:] == ["2", "2", "+0.0%"], text
    assert rows["images"][-1] == "+0.0%"
    assert rows["cut"][-4:] == ["1", "of", "2", "seeds"], text


def test_rows_of_a_benchmark_give_a_gpus_rate(tmp_path, tiny_models, capsys):
    """What the row did in an hour is what the plan says an hour does, in FLOPs of the UNet."""
    file, rows = make_project(tmp_path, tiny_models), tmp_path / "engine.jsonl"
    settings = {"model": "sd15", "size": "512x512", "dtype": "float32", "slots": 8, "unet_flops_per_image": 3e12}
    rates = {"engine, eager": [1, 2.0, 3], "engine, eager, CLIP": [1, 1.5, 2], "engine, compiled": [9, 9, 9]}
    row = {"unit": "images/s", "device": "NVIDIA GeForce RTX 4090", "time": "2026-01-01T00:00:00", "settings": settings}
    other = {"unit": "calls/s", "device": "NVIDIA GeForce RTX 4090", "settings": {}}
    rows.write_text("".join(f"{json.dumps(one)}\n" for one in (row | {"p20_p50_p80": rates}, other)))
    command = ["plan", str(file), "--set", f"budget.rows={rows}", "--set"]
    assert main([*command, "budget.gpu=RTX4090"]) == 0
    text = capsys.readouterr().out
    assert "measured: sd15 512x512 float32 on NVIDIA GeForce RTX 4090 (engine, eager, CLIP), 4.5 TFLOP/s" in text
    assert main([*command, "budget.gpu=RTX409"]) == 2
    assert "it has: NVIDIA GeForce RTX 4090 float32" in capsys.readouterr().err
    config = loaded(file, f"budget.rows={rows}", "budget.gpu=RTX4090")
    found = of_rows(config, Flops(evaluation=9e12, encode=1.0, decode=1.0, score=1.0))
    assert (found.per_evaluation, found.rows, found.per_image) == (2.0, 16, 0.0)


def test_an_unknown_gpu_is_an_error_that_names_the_known(tmp_path, tiny_models, capsys):
    file = make_project(tmp_path, tiny_models)
    assert main(["plan", str(file), "--set", "budget.gpu=H1000"]) == 2
    assert "known are T4, V100" in capsys.readouterr().err


def test_a_threshold_of_an_unknown_class_is_refused_as_generate_does(tmp_path, tiny_models, capsys):
    file = make_project(tmp_path, tiny_models)
    assert main(["plan", str(file), "--set", "score.threshold={classes = {foks = 0.2}}"]) == 2
    assert "class 'foks', which the data does not have; the nearest is" in capsys.readouterr().err


@pytest.mark.parametrize("allowed", [0.5, 0.05])
def test_sources_that_are_too_thin_are_planned_as_they_are_made(tmp_path, tiny_models, fake_weights, capsys, allowed):
    file = make_project(tmp_path, tiny_models)
    for path, colour in (("red fox/0.png", "red"), ("käfer/1.png", "blue")):
        Image.new("RGB", (96, 4), colour).save(tmp_path / "data" / path)
    wishes = ["--set", "spectrum.size=[32, 32]", "--set", f"data.max_bad_share={allowed}"]
    code = main(["plan", str(file), *wishes])
    out, err = capsys.readouterr()
    if allowed == 0.05:
        assert code == 1 and "2 of 11 images cannot be used, above data.max_bad_share" in err
        with pytest.raises(RunFailed, match="1 of 11 images cannot be used"):
            fake(file, *wishes[1::2])
        return
    assert code == 0 and "5 (3 distinct, 2 unusable)" in out
    assert f"{len(fake(file, *wishes[1::2]))}, of which 0" in out


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("score.prompt=a photo of {klass}", "{klass} is not known here"),
        ("score.prompt=a photo", "have one text, 'a photo'"),
        ("engine.early_rejection=true", "early_rejection predicts CLIP scores"),
    ],
)
def test_a_plan_promises_nothing_that_generate_refuses(tmp_path, tiny_models, capsys, wish, message):
    file = make_project(tmp_path, tiny_models)
    file = without_score(file) if wish.startswith("engine") else file
    said = []
    for command in ("plan", "generate"):
        assert main([command, str(file), "--set", wish]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and message in said[0]


def test_a_plan_of_nothing_that_can_be_made(tmp_path, tiny_models, capsys):
    file = make_project(tmp_path, tiny_models, {"fox": 1, "common": 9})
    Image.new("RGB", (96, 4)).save(tmp_path / "data" / "fox" / "0.png")
    wishes = ("spectrum.size=[32, 32]", "budget.gpu=T4", "budget.usd=1.0", "budget.usd_per_hour=1.0")
    assert main(["plan", str(file), *(word for wish in wishes for word in ("--set", wish))]) == 0
    assert "1 (0 distinct, 1 unusable)" in capsys.readouterr().out
