"""`discl plan --probe`: what it says of model, levels and threshold."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discl.cli import main
from discl.config import load_config
from discl.data import load_data
from discl.engine.scorer import Scorer
from discl.store import Store, StoreWriter
from discl.suitability import LevelFacts, Suitability, suitability
from tests.discl.project import fake, loaded, make_project
from tests.discl.store_samples import key


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models)


@pytest.mark.usefixtures("fake_weights")
def test_levels_real_images_and_side(file, tiny_models):
    config = loaded(file, "score.threshold=0.3")
    store = fake(file, "score.threshold=0.3")
    (recipe,) = store.table["recipe"].unique().to_pylist()
    with StoreWriter(store.path, "run", shard_bytes=1000) as writer:  # an earlier probe of another model
        other = {"key": key(0), "recipe": "r", "class_name": "red fox", "level": 0, "status": "ok", "text_score": 1.0}
        writer.append(other, None, "png", None)
    found = suitability(config, load_data(config.data), Store(store.path), recipe)
    for each in found.levels:
        of = [row for row in store.table.to_pylist() if row["level"] == each.level and row["status"] == "ok"]
        scores = [row["text_score"] for row in of]
        assert each.images == len(scores) > 0
        assert each.text_score == pytest.approx(np.median(scores))
        assert each.over_config == pytest.approx(np.mean(np.array(scores) >= 0.3))
        assert each.own_class_best == pytest.approx(np.mean([row["margin"] > 0 for row in of]))
    table = load_data(load_config(file).data)
    scorer = Scorer.from_pretrained(f"{tiny_models}/clip")
    texts = scorer.embed_texts([f"a photo of a {name}" for name in table.class_names])
    cosines = (scorer.embed_pil([Image.open(path) for path in table.paths]) @ texts.T).numpy()
    own = cosines[np.arange(len(table)), table.labels]
    assert found.suggested == pytest.approx(np.quantile(own, 0.05), abs=1e-5)
    assert found.real_own_class == pytest.approx(np.mean(cosines.argmax(1) == table.labels))
    assert found.side == 32 and "upscale = 8" in " ".join(found.problems())


def test_the_verdicts():
    level = LevelFacts(30, 10, 0.5, 0.4, 0.9, 0.3, 0.8)
    real = np.linspace(0.2, 0.4, 20)
    good = Suitability([level], real, 0.9, 0.21, 400)
    assert good.problems() == [] and good.lines()[-1] == "this model suits this data" and good.good_levels == [30]
    assert "only 20% of the real images" in Suitability([level], real, 0.2, 0.21, 400).problems()[0]
    hopeless = Suitability([LevelFacts(30, 10, 0.0, 0.0, 0.1, 0.1, 0.2)], real, 0.9, 0.21, 400)
    assert "at no level" in hopeless.problems()[0]


def test_the_command_prints_it(file, capfd):
    assert main(["plan", str(file), "--probe", "1"]) == 0
    out = capfd.readouterr().out
    assert "UNet evaluations" in out and "suggested: threshold = " in out and "real images score" in out
    assert not file.with_name("store").exists()


def test_a_probe_may_be_repeated_with_a_lower_threshold(file, capfd):
    for threshold, share in ((0.9, "0%"), (-1.0, "100%")):
        settings = ["--set", f"score.threshold={threshold}", "--set", "store.keep=accepted"]
        assert main(["plan", str(file), "--probe", "1", *settings]) == 0
        *_, verdict = (line.split() for line in capfd.readouterr().out.splitlines() if line.split()[:1] == ["50"])
        assert verdict[3] == share


def test_a_probe_passes_over_damaged_real_images_and_names_the_folder_of_an_earlier_judge(file, capfd, caplog):
    image = file.with_name("data") / "common" / "0.png"
    data = bytearray(image.read_bytes())
    data[60:80] = bytes(20)  # its end is as it should be, so only decoding tells
    image.write_bytes(data)
    assert main(["plan", str(file), "--probe", "1"]) == 0
    assert "suggested: threshold = " in capfd.readouterr().out
    assert f"passed over {image}: the image is damaged" in caplog.text
    assert main(["plan", str(file), "--probe", "1", "--set", "score.prompt=a drawing of a {class}"]) == 2
    assert f"remove that folder: {file.with_name('store')}.probe" in capfd.readouterr().err
