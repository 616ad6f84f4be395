"""`discl score` against open_clip one image at a time, from embeddings and from pixels, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from discl.cli import main
from discl.config import load_config
from discl.data import load_data
from discl.engine.scorer import Scorer
from discl.errors import ConfigError, StoreError
from discl.filtering import Rules, filter_store
from discl.generation import generate
from discl.learner import Learner
from discl.prompts import class_texts
from discl.scoring import ScoreRequest, diversity, score_images, score_store
from discl.store import Store, StoreWriter
from discl.training import train
from tests.discl.project import make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_models) -> Path:
    file = make_project(tmp_path_factory.mktemp("score"), tiny_models)
    generate(load_config(file, ["store.format=png"]))
    return file


@pytest.fixture
def store(project, tmp_path) -> Store:
    shutil.copytree(project.with_name("store"), tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def clip(tiny_models) -> str:
    return f"{tiny_models}/clip"


def scores(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


class OneByOne:
    """open_clip's own way: its preprocessing of one PIL image, both towers, cosines."""

    def __init__(self, folder: str, texts: list[str]):
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model.eval()
        with torch.no_grad():
            tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
            self.texts = self.model.encode_text(tokens, normalize=True)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        tensor = self.preprocess(Image.fromarray(image))[None]
        return (self.model.encode_image(tensor, normalize=True) @ self.texts.T)[0].numpy()


@pytest.mark.parametrize("pixels", [False, True])
def test_a_stores_scores_are_open_clips(store, clip, pixels):
    names = ["käfer", "red fox"]
    oracle = OneByOne(clip, [f"a drawing of a {name}" for name in names])
    request = ScoreRequest("other", clip, "a drawing of a {class}", pixels=pixels, batch=3)
    found = {row["key"]: row for row in scores(score_store(store.path, request))}
    assert list(found) == store.keys()
    for row in store.table.to_pylist():
        cosines, own = oracle(store.image(row["key"])), names.index(row["class_name"])
        ours = found[row["key"]]
        # Kept embeddings are fp16.
        assert ours["text_score"] == pytest.approx(cosines[own], abs=1e-5 if pixels else 1e-3)
        if pixels:
            assert ours["margin"] == pytest.approx(cosines[own] - cosines[1 - own], abs=2e-5)
            assert ours["rank"] == 1 + (cosines[1 - own] > cosines[own])


def test_embeddings_give_the_runs_own_scores_without_a_pixel(project, store, clip):
    for tar in (store.path / "shards").glob("*.tar"):
        tar.unlink()
    request = ScoreRequest("same", clip, data=load_data(load_config(project).data))
    found = {row["key"]: row for row in scores(score_store(store.path, request))}
    for row in store.table.to_pylist():
        assert found[row["key"]]["text_score"] == pytest.approx(row["text_score"], abs=2e-3)
        assert found[row["key"]]["margin"] == pytest.approx(row["margin"], abs=2e-3)


def test_it_goes_on_where_it_was_and_starts_anew_for_another_text(store, clip, monkeypatch):
    request = ScoreRequest("mine", clip)
    folder = score_store(store.path, request)
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}
    (folder / sorted(before)[-1]).unlink()
    score_store(store.path, request)
    after = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}
    assert set(after) == set(before) and after[sorted(before)[-1]] > before[sorted(before)[-1]]
    assert all(after[name] == before[name] for name in sorted(before)[:-1])
    old = scores(folder)
    score_store(store.path, ScoreRequest("mine", clip, "no {class}"))
    assert [row["text_score"] for row in scores(folder)] != [row["text_score"] for row in old]


def test_filter_judges_by_a_scorer(store, clip):
    folder = score_store(store.path, ScoreRequest("mine", clip, "no {class}", ("a blank page",)))
    cut = float(np.median([row["text_score"] for row in scores(folder)]))
    filter_store(store.path, Rules(threshold=cut, rank=1), "chosen", scorer="mine")
    expected = {r["key"] for r in scores(folder) if np.float32(r["text_score"]) >= np.float32(cut) and r["rank"] == 1}
    assert set(store.selection("chosen")) == expected
    assert store.selection_rule("chosen")["scorer"]["prompt"] == "no {class}"
    next(folder.glob("*.parquet")).unlink()
    with pytest.raises(StoreError, match="run `discl score` again"):
        filter_store(store.path, Rules(), scorer="mine")


def test_real_images_give_source_centroid_and_leakage(project, store, clip, tmp_path):
    table = load_data(load_config(project).data)
    scorer = Scorer.from_pretrained(clip)
    real = {name: scorer.embed_pil([Image.open(path)])[0] for name, path in zip(table.ids, table.paths, strict=True)}
    request = ScoreRequest("real", clip, negatives=("a blank page", "noise"), pixels=True, data=table)
    negative = scorer.embed_texts(["a blank page", "noise"])
    found = {row["key"]: row for row in scores(score_store(store.path, request))}
    for row in store.table.to_pylist():
        vector = scorer.embed_pil([Image.fromarray(store.image(row["key"]))])[0]
        of_class = [real[name] for name, label in zip(table.ids, table.labels, strict=True)
                    if table.class_names[label] == row["class_name"]]  # fmt: skip
        center = torch.nn.functional.normalize(torch.stack(of_class).mean(0), dim=0)
        ours = found[row["key"]]
        assert ours["image_score"] == pytest.approx((vector @ real[row["source_id"]]).item(), abs=1e-3)
        assert ours["centroid_score"] == pytest.approx((vector @ center).item(), abs=1e-3)
        assert ours["negative_score"] == pytest.approx((negative @ vector).max().item(), abs=1e-5)


def test_imported_images_are_likened_to_the_real_image_of_their_class_and_name(tmp_path, tiny_models, clip):
    file = make_project(tmp_path, tiny_models, {"red_fox": 3, "owl": 2, "elk": 2})
    table = load_data(load_config(file).data)
    random = np.random.default_rng(7)
    for of_class in ("red_fox", "owl"):  # the reference tree's folders, which read as "red fox" and "owl"
        leaf = tmp_path / "tree" / of_class / "Strength70_guidance10_seed3"
        leaf.mkdir(parents=True)
        for number in (0, 1, 9):
            Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(leaf / f"{number}.png")
    scorer = Scorer.from_pretrained(clip)
    real = {name: scorer.embed_pil([Image.open(path)])[0] for name, path in zip(table.ids, table.paths, strict=True)}
    request = ScoreRequest("x", clip, data=table, pixels=True)
    assert main(["store", "import", str(tmp_path / "s"), str(tmp_path / "tree"), "--kind", "reference"]) == 0
    imported = Store(tmp_path / "s").table.to_pylist()
    in_store = {row["key"]: row for row in scores(score_store(tmp_path / "s", request))}
    found = scores(score_images(tmp_path / "tree", "reference", tmp_path / "out", request))
    places = [(row["class_name"], Path(row["path"])) for row in found]
    places += [(row["class_name"], Path(row["source_id"])) for row in imported]
    for ours, (class_name, path) in zip(found + [in_store[row["key"]] for row in imported], places, strict=True):
        folder = {"red fox": "red_fox"}.get(class_name, class_name)
        leaf = tmp_path / "tree" / folder / "Strength70_guidance10_seed3"
        vector = scorer.embed_pil([Image.open(leaf / path.name)])[0]
        source = real.get(f"{folder}/{path.name}")
        assert (ours["image_score"] is None) == (source is None)
        assert source is None or ours["image_score"] == pytest.approx((vector @ source).item(), abs=1e-3)
        center = torch.stack([each for name, each in real.items() if name.startswith(folder)]).mean(0)
        center = torch.nn.functional.normalize(center, dim=0)
        assert ours["centroid_score"] == pytest.approx((vector @ center).item(), abs=1e-3)
    assert sum(row["image_score"] is not None for row in in_store.values()) == 4


def test_leakage_finds_the_evaluation_image_itself(tmp_path, clip):
    random = np.random.default_rng(1)
    for split in ("train", "test"):
        for name in ("owl", "fox"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    (tmp_path / "c.toml").write_text('[data]\nkind = "imagefolder"\nroot = "data"\n')
    table = load_data(load_config(tmp_path / "c.toml").data)
    request = ScoreRequest("x", clip, data=table)
    found = scores(score_images(tmp_path / "data/test", "imagefolder", tmp_path / "out", request))
    assert len(found) == 4
    for row in found:
        assert row["leakage_score"] == pytest.approx(1, abs=1e-5)
        assert row["leakage_id"].endswith(row["path"])


def test_foreign_images_stream_resume_and_name_what_is_bad(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("discl.scoring.foreign.BLOCK", 4)
    monkeypatch.setattr("discl.scoring.embedder.LEAST", 2)
    random = np.random.default_rng(0)
    leaf = tmp_path / "tree" / "red_fox" / "Strength70_guidance10_seed3"
    other = tmp_path / "tree" / "owl" / "Strength100_guidance10_seed3"
    for folder in (leaf, other):
        folder.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (leaf / "9.jpg").write_bytes(b"\xff\xd8\xff no image")
    request = ScoreRequest("x", clip, batch=2)
    folder = score_images(tmp_path / "tree", "reference", tmp_path / "out", request)
    found = scores(folder)
    assert len(found) == 9 and [row["level"] for row in found] == [0] * 4 + [30] * 5
    assert found[-1]["text_score"] is None and found[-1]["reason"]
    assert "9.jpg" in (tmp_path / "out/quarantine.jsonl").read_text()
    first = sorted(folder.glob("*.parquet"))[0].stat().st_mtime_ns
    sorted(folder.glob("*.parquet"))[2].unlink()
    assert scores(score_images(tmp_path / "tree", "reference", tmp_path / "out", request)) == found
    assert first == sorted(folder.glob("*.parquet"))[0].stat().st_mtime_ns
    oracle = OneByOne(clip, ["a photo of a owl", "a photo of a red fox"])
    pixels = np.asarray(Image.open(leaf / "0.png"))
    assert found[4]["text_score"] == pytest.approx(oracle(pixels)[1], abs=1e-5)


def test_a_damaged_image_of_a_store_is_quarantined_with_its_key(store, clip):
    tar = sorted((store.path / "shards").glob("*.tar"))[0]
    row = next(row for row in store.table.to_pylist() if row["shard"] == 0)
    data = bytearray(tar.read_bytes())
    data[row["offset"] + 40] ^= 255
    tar.write_bytes(data)
    found = {each["key"]: each for each in scores(score_store(store.path, ScoreRequest("x", clip, pixels=True)))}
    assert found[row["key"]]["text_score"] is None and found[row["key"]]["reason"]
    assert row["key"] in (store.path / "quarantine.jsonl").read_text()
    assert sum(each["text_score"] is None for each in found.values()) == 1


def test_embeddings_that_are_not_finite_are_made_again_from_the_image(store, clip):
    file = sorted((store.path / "embeddings").glob("*.npy"))[0]
    whole = scores(score_store(store.path, ScoreRequest("whole", clip)))
    vectors = np.load(file)
    vectors[0] = np.nan
    np.save(file, vectors)
    found = scores(score_store(store.path, ScoreRequest("x", clip)))
    assert found[0]["text_score"] == pytest.approx(whole[0]["text_score"], abs=1e-3)


def test_an_embedding_that_is_not_finite_and_has_no_image_left_has_a_reason_for_its_missing_score(store, clip):
    file, tar = (sorted((store.path / folder).iterdir())[0] for folder in ("embeddings", "shards"))
    vectors = np.load(file)
    vectors[0] = np.inf
    np.save(file, vectors)
    tar.unlink()
    first, *others = scores(score_store(store.path, ScoreRequest("x", clip)))
    assert first["text_score"] is None and "embedding" in first["reason"]
    assert all(row["text_score"] is not None and row["reason"] is None for row in others)
    assert first["key"] in (store.path / "quarantine.jsonl").read_text()


@pytest.mark.parametrize("prompt", ["", " ", "{class}"])
def test_a_class_without_text_is_named(prompt):
    with pytest.raises(ConfigError, match=r"class ' ' has no text: score\.prompt"):
        class_texts(prompt, [" ", "fox"], "score.prompt")
    with pytest.raises(ConfigError, match="'fox' and ' fox' have one text, 'a fox'"):
        class_texts("a {class}", ["fox", " fox"], "score.prompt")


def test_what_is_refused(store, clip, tmp_path):
    with StoreWriter(tmp_path / "empty", "run", shard_bytes=1000):
        pass
    with pytest.raises(StoreError, match="is empty: there is nothing to score; run `discl generate`"):
        score_store(tmp_path / "empty", ScoreRequest("x", clip))
    with pytest.raises(ConfigError, match="have one text"):
        score_store(store.path, ScoreRequest("x", clip, "a photo"))
    with pytest.raises(ConfigError, match=r"as one, since.* write \{class\} near the beginning of --prompt"):
        score_store(store.path, ScoreRequest("x", clip, "very " * 200 + "{class}"))
    with pytest.raises(StoreError, match="scorer name"):
        score_store(store.path, ScoreRequest("../x", clip))
    for file in (store.path / "embeddings").glob("*.npy"):
        vectors = np.load(file)
        np.save(file, np.zeros((len(vectors), 3), np.float16))
    with pytest.raises(StoreError, match="embeddings of 3 numbers"):
        score_store(store.path, ScoreRequest("x", clip))
    with pytest.raises(StoreError, match="nothing to score"):
        score_images(tmp_path / "no", "imagefolder", tmp_path / "out", ScoreRequest("x", clip))


def test_the_command(store, clip, tmp_path, capsys):
    assert main(["score", str(store.path), "--clip", clip, "--name", "cli", "--negative", "a blank page"]) == 0
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert folder == store.path / "scores" / "cli"
    assert json.loads((folder / "scorer.json").read_text())["negatives"] == ["a blank page"]
    assert scores(folder)[0]["negative_score"] is not None
    assert main(["score", str(store.path), "--clip", clip, "--prompt", ""]) == 2
    assert "has no text" in capsys.readouterr().err
    assert main(["score", str(tmp_path / "nothing"), "--clip", clip]) == 2
    assert "nothing" in capsys.readouterr().err


def test_diversity_is_the_mean_over_all_pairs(store):
    vectors = {key: row for key, row in zip(store.keys(), store.embeddings().astype(np.float64), strict=True)}
    rows = [row for row in store.table.to_pylist() if row["key"] in set(store.selection("default"))]
    for level, count, value in diversity(store.path):
        of = [row for row in rows if row["level"] == level]
        distances = []
        for one in of:
            for other in of:
                if one is not other and one["class_id"] == other["class_id"]:
                    a, b = vectors[one["key"]], vectors[other["key"]]
                    distances.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert count == len(of) > 2
        assert value == pytest.approx(np.mean(distances), abs=1e-9)


def test_a_run_whose_texts_cannot_tell_classes_apart_is_refused_before_it_begins(project, tmp_path):
    with pytest.raises(ConfigError, match="'common' and 'käfer' have one text, 'a photo'"):
        generate(load_config(project, ["score.prompt=a photo", f"store.path={tmp_path / 's'}"]))
    assert not (tmp_path / "s" / "manifest").exists()


def test_a_classifiers_confidence_is_that_of_its_loader(project, store, clip, tmp_path):
    overrides = ["train.model=digitnet", "train.image_size=8", "train.batch=4", "train.workers=0"]
    overrides += ["curriculum.epochs=1", "curriculum.curriculum_epochs=1", "curriculum.policy=none"]
    config = load_config(project, overrides)
    train(config, tmp_path / "run")
    request = ScoreRequest("sure", clip, classifier=tmp_path / "run")
    found = {row["key"]: row for row in scores(score_store(store.path, request))}
    table = load_data(config.data)
    learner = Learner("digitnet", len(table.class_names), 4, compile=False)
    learner.reset(0, str(tmp_path / "run/checkpoints/last.safetensors"))
    learner.model.eval()
    for row in store.table.to_pylist():
        image = Image.fromarray(store.image(row["key"])).convert("L").resize((8, 8), Image.Resampling.LANCZOS)
        pixels = (torch.from_numpy(np.asarray(image, np.float32)) - 127.5) / 127.5
        with torch.no_grad():
            likely = learner.model(pixels[None, None]).softmax(1)[0]
        own = table.class_names.index(row["class_name"])
        assert found[row["key"]]["confidence"] == pytest.approx(likely[own].item(), abs=1e-5)
        assert found[row["key"]]["predicted"] == table.class_names[likely.argmax()]
    with pytest.raises(ConfigError, match=r"classifier = .*: no finished training; give a folder"):
        score_store(store.path, ScoreRequest("x", clip, classifier=tmp_path))


def test_a_run_whose_clip_cuts_the_class_off_is_refused(project, tmp_path):
    prompt = f"score.prompt={'very ' * 200}{{class}}"
    with pytest.raises(ConfigError, match=r"'common' and 'käfer' as one, since.* near the beginning of score\.prompt"):
        generate(load_config(project, [prompt, f"store.path={tmp_path / 's'}"]))
