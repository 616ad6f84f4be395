"""The config's laws: every key of the contract is accepted, nothing else, and every complaint is one line."""

from pathlib import Path

import pytest

from discl.config import RunConfig, load_config, parse_config, require_model, to_toml
from discl.errors import ConfigError

# design 6, with values other than the defaults where this version has a choice
EVERY_KEY = """
[data]
kind = "csv"
root = "photos/table.csv"
max_bad_share = 0.5
allow_licenses = ["CC0"]
[hard]
rule = "confidence"
few_below = 10
many_from = 50
limit = 7
[model]
path = "models/sd"
revision = ""
dtype = "bfloat16"
backend = "torch"
exported = ""
loras = ["fox.safetensors:0.5", "hub:someone/style"]
embeddings = ["word.safetensors", "den.safetensors:<den>"]
[spectrum]
levels = [50, 0]
seeds = [3, 1]
steps = 20
text_guidance = 7.5
solver = "dpmpp-2m"
mode = "few-step"
guidance_interval = [0.1, 0.9]
prompt = "{class} in the wild"
prompts = "prompts.json"
negative_prompt = "not {class}"
size = [64, 48]
size_policy = "bucket"
retries = 2
best_of = 3
fill = "none"
upscale = 4
[score]
clip = "ViT-B-32:weights/clip.safetensors"
prompt = "{class}"
threshold = 0.25
[engine]
device = "cpu"
slots = 4
early_rejection = false
false_reject_limit = 0.1
control_share = 0.2
cache = "s3://bucket/code"
[store]
path = "out"
format = "webp"
quality = 80
shard_mb = 1
shard_seconds = 60
keep = "accepted"
embeddings = false
[budget]
usd_per_hour = 3.5
usd = 0.0
hours = 0.0
[curriculum]
policy = "shrink"
epochs = 6
curriculum_epochs = 4
tail_share = 0.2
nontail_share = 0.5
synthetic_scale = 2.0
[train]
model = "resnet10"
init = "weights.safetensors"
loss = "balanced-softmax"
batch = 8
lr = 1e-2
optimizer = "adamw"
weight_decay = 0.0
seed = 1
workers = 0
"""
LEAST = '[data]\nkind = "imagefolder"\nroot = "."\n'


def load(text: str = "", *overrides: str) -> RunConfig:
    return parse_config(LEAST + text, Path("/here"), "run.toml", overrides)


def complaint(text: str = "", *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_every_key_of_the_contract_is_accepted_and_kept():
    config = parse_config(EVERY_KEY, Path("/here"))
    assert config.spectrum.levels == (50, 0)
    assert config.spectrum.size == (64, 48)
    assert config.score.threshold.of("any", 0) == 0.25
    assert config.curriculum.tail_share == 0.2
    assert config.train.lr == 0.01


def test_the_resolved_config_loads_to_itself():
    for config in (load(), parse_config(EVERY_KEY, Path("/here"))):
        assert parse_config(to_toml(config), Path("/elsewhere")) == config


def test_defaults_are_the_contracts():
    config = load()
    assert config.score is None
    assert config.spectrum.levels == (0, 10, 30, 50)
    assert (config.spectrum.steps, config.spectrum.text_guidance) == (50, 10.0)
    assert (config.hard.rule, config.hard.few_below, config.hard.many_from) == ("few", 20, 100)
    assert (config.store.path, config.store.format, config.store.keep) == ("/here/spectrum", "jpg", "all")
    assert load("[score]\n").score.threshold.of("any", 30) == 0.30
    assert (config.curriculum.epochs, config.curriculum.curriculum_epochs) == (65, 60)
    assert (config.train.batch, config.train.lr, config.train.weight_decay) == (128, 1e-3, 1e-5)


def test_it_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load().spectrum.steps = 3


def test_seeds_by_count_are_the_papers_then_go_on():
    assert load("[spectrum]\nseeds = 8\n").spectrum.seeds == (10, 20, 30, 40, 42, 50, 60, 70)
    many = load("[spectrum]\nseeds = 20\n").spectrum.seeds
    assert many[:8] == load("[spectrum]\nseeds = 8\n").spectrum.seeds
    assert len(set(many)) == 20


def test_thresholds_prefer_the_class_then_the_level():
    table = '[score.threshold]\ndefault = 0.3\nclasses = {"red fox" = 0.2}\nlevels = {50 = 0.25}\n'
    threshold = load(table).score.threshold
    assert [threshold.of(*place) for place in (("red fox", 50), ("owl", 50), ("owl", 0))] == [0.2, 0.25, 0.3]


@pytest.mark.parametrize(
    "table",
    [
        '[score.threshold]\ndefault = 0.3\n"red fox" = 0.2\n50 = 0.25\n',
        '[score]\nthreshold = {"red fox" = 0.2, 50 = 0.25}\n',
    ],
)
def test_thresholds_in_one_flat_table_are_levels_by_number_and_classes_by_name(table):
    nested = '[score.threshold]\ndefault = 0.3\nclasses = {"red fox" = 0.2}\nlevels = {50 = 0.25}\n'
    assert load(table) == load(nested)
    assert load(table).score.threshold.classes == {"red fox": 0.2}
    assert parse_config(to_toml(load(table)), Path("/elsewhere")) == load(table)


def test_the_nested_form_takes_a_class_whose_name_is_a_number():
    threshold = load('[score.threshold]\nclasses = {"50" = 0.2}\n').score.threshold
    assert (threshold.of("50", 0), threshold.of("owl", 50)) == (0.2, 0.3)


def test_the_digits_alone_need_no_root(tmp_path):
    assert parse_config('[data]\nkind = "digits-lt"\n', tmp_path).data.root == ""
    for kind in ("csv", "imagefolder"):
        for given in ("", 'root = ""\n'):
            with pytest.raises(ConfigError, match=r"\[data\]: root is missing; give the"):
                parse_config(f'[data]\nkind = "{kind}"\n{given}', tmp_path)


@pytest.mark.parametrize(("few_below", "many_from"), [(10, 100), (100, 100), (200, 200)])
def test_many_begins_where_few_ends_at_the_latest(few_below, many_from):
    assert load(f"[hard]\nfew_below = {few_below}\n").hard.many_from == many_from


def test_paths_are_relative_to_the_config(tmp_path):
    file = tmp_path / "deep" / "run.toml"
    file.parent.mkdir()
    file.write_text(EVERY_KEY)
    config = load_config(file, ["model.path=../sd"])
    assert config.data.root == str(tmp_path / "deep/photos/table.csv")
    assert config.model.path == str(tmp_path / "sd")
    assert config.score.clip == f"ViT-B-32:{tmp_path / 'deep/weights/clip.safetensors'}"
    assert load("", "model.path=hub:org/name").model.path == "hub:org/name"
    assert load("[score]\n", "score.clip=hf-hub:org/name").score.clip == "hf-hub:org/name"
    assert load("[score]\n", "score.clip=ViT-B-32:openai").score.clip == "ViT-B-32:openai"
    assert load("[score]\n", "score.clip=clip").score.clip == "/here/clip"


def test_overrides_are_toml_or_bare_words_and_the_last_wins():
    config = load("", "spectrum.levels=[30]", "train.lr=1", "spectrum.levels=[0, 50]", "store.format=png")
    assert config.spectrum.levels == (0, 50)
    assert config.train.lr == 1.0
    assert config.store.format == "png"
    assert load("", "score.clip=x").score.clip == "/here/x"


@pytest.mark.parametrize("section", [name for name in RunConfig.model_fields if name != "score"])
def test_an_unknown_key_names_the_nearest(section):
    known = next(iter(type(getattr(load(), section)).model_fields))
    assert f"[{section}] has no key '{known}z'" in (message := complaint("", f"{section}.{known}z=1"))
    assert f"nearest known key is '{known}'" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[spectrun]\nsteps = 3\n", ["no table [spectrun]", "[spectrum]"]),
        ("[spectrum]\nslots = 3\n", ["no key 'slots'", "belongs to [engine]"]),
        ("[score.threshold]\ndefalt = 0.3\n", ["[score.threshold]", "'defalt'", "'default'"]),
        ("[spectrum]\nsteps = 0\n", ["[spectrum] steps = 0", "greater than or equal to 1"]),
        ("[spectrum]\nsteps = true\n", ["steps = true", "integer"]),
        ('[spectrum]\nsteps = "50"\n', ['steps = "50"', "integer"]),
        ("[spectrum]\nlevels = [0, 100]\n", ["levels, item 2 = 100", "real image"]),
        ("[spectrum]\nlevels = [0, 0]\n", ["appears twice"]),
        ("[spectrum]\nlevels = []\n", ["at least one"]),
        ("[spectrum]\nlevels = 30\n", ["should be a list"]),
        ("[spectrum]\nseeds = 0\n", ["seeds = 0", "number of seeds"]),
        ("[spectrum]\nsize = [64]\n", ["write [width, height]"]),
        ("[spectrum]\nsize = [9000, 9000]\n", ["[spectrum] size", "9000 x 9000 is more than 64,000,000 pixels"]),
        ("[engine]\nslots = 0\n", ["slots = 0", "'auto'", "greater than or equal to 1"]),
        ('[engine]\ndevice = "gpu"\n', ['device = "gpu"', "'cuda'"]),
        ('[curriculum]\npolicy = "fixed"\n', ["needs level"]),
        ('[store]\nformat = "jpeg"\n', ['format = "jpeg"', "'jpg'"]),
        ('[store]\npath = ""\n', ["give a path"]),
        ('[hard]\nrule = "list"\n', ["needs list"]),
        ("[hard]\nfew_below = 200\nmany_from = 100\n", ["few_below = 200", "many_from = 100"]),
        ("[hard]\nfew_below = 'many'\n", ["few_below", "integer"]),
        ("[spectrum]\nlevel = [0]\n", ["no key 'level'", "nearest known key is 'levels'"]),
        ("[spectrum]\nseed = 1\n", ["no key 'seed'", "nearest known key is 'seeds'"]),
        ("[train]\nlevel = 0\n", ["no key 'level'", "belongs to [curriculum]"]),
        ('[score]\nthreshold = "a"\n', ['threshold = "a"', "a number or a table"]),
        ("[score]\nthreshold = true\n", ["threshold = true", "a number or a table"]),
        ("[score.threshold]\n100 = 0.3\n", ["threshold", "100", "real image"]),
        ("[score.threshold]\nfox = 3.0\n", ["threshold", "fox = 3.0", "less than or equal to 1"]),
        ("[score.threshold]\nclasses = 0.3\n", ["threshold, classes = 0.3"]),
        ('[model]\npath = "hub:name"\n', ["hub:organisation/name"]),
        ('[score]\nclip = "ViT-B-32:weights.pt"\n', ["only .safetensors"]),
        ('[score]\nclip = ""\n', ["[score] clip", "name a CLIP"]),
        ("[model]\nrevision = 1234567\n", ['should be text: write "1234567"']),
        ("[spectrum]\nprompt = true\n", ['should be text: write "true"']),
        ("[spectrum]\nprompt = ['a']\n", ["should be text"]),
        ("[spectrum]\nSTEPS = 3\n", ["no key 'STEPS'", "nearest known key is 'steps'"]),
        ("[train]\nlr = nan\n", ["lr", "finite"]),
        ("[train]\nlr = 0\nbatch = 0\n", ["[train]", "(and 1 more)"]),
        ("steps =\n", ["not valid TOML", "line 4"]),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(text, parts):
    message = complaint(text)
    assert message.startswith("run.toml: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize("override", ["spectrum.steps", "steps=3", "=3", "a.=3", "spectrum.levels.x=3", "data=3"])
def test_a_malformed_override_says_how_to_write_it(override):
    assert f"--set {override}" in complaint("[spectrum]\nlevels = [0]\n", override)


def test_a_quoted_part_of_an_override_may_hold_a_dot():
    threshold = load("[score]\n", 'score.threshold."St. Bernard"=0.2', "score.threshold.red fox=0.1").score.threshold
    assert threshold.classes == {"St. Bernard": 0.2, "red fox": 0.1}


def test_a_bad_override_is_named_instead_of_the_file():
    assert complaint("", "spectrum.levels.x=3").startswith("--set spectrum.levels.x=3: [spectrum] levels")
    assert complaint("", "spectrum.steps=many").startswith("--set spectrum.steps=many: [spectrum] steps")
    assert complaint("", "spektrum.steps=5").startswith("--set spektrum.steps=5: there is no table [spektrum]")


def test_overrides_are_a_list_of_texts():
    with pytest.raises(ConfigError, match="give a list"):
        parse_config("", Path("/here"), overrides="spectrum.steps=5")


def test_a_byte_order_mark_is_no_part_of_the_config(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[data]\nkind = "digits-lt"\n', "utf-8-sig")
    assert load_config(file).data.kind == "digits-lt"


@pytest.mark.parametrize(("text", "part"), [("", "[data] is missing"), ("[data]\nroot = 'x'\n", "[data] kind")])
def test_missing_required_keys_are_named(text, part):
    with pytest.raises(ConfigError, match="is missing") as caught:
        parse_config(text, Path("/here"), "run.toml")
    assert part in str(caught.value)


def test_generation_needs_a_model():
    with pytest.raises(ConfigError, match=r"\[model\] path is missing"):
        require_model(load())


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'[data]\nkind = "caf\xe9"\n')
    for name in ("absent.toml", ".", "latin.toml"):
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, 5, None, b"run.toml"])
def test_what_cannot_be_a_path_is_named(path):
    with pytest.raises(ConfigError, match=r"check the path|give the name of a config file"):
        load_config(path)


def test_a_base_that_cannot_be_a_path_is_named(tmp_path):
    (tmp_path / "run.toml").write_text('base = "a\\u0000b"\n[data]\nkind = "digits-lt"\n')
    with pytest.raises(ConfigError, match="check the path"):
        load_config(tmp_path / "run.toml")


def test_a_cache_is_a_folder_beside_the_config_or_a_url():
    assert load().engine.cache == ""
    assert load('[engine]\ncache = "code"\n').engine.cache == "/here/code"
    assert load('[engine]\ncache = "s3://bucket/code"\n').engine.cache == "s3://bucket/code"


@pytest.mark.parametrize("override", ["#x=1", "[a]#=1", "[a]=1"])
def test_a_key_that_toml_takes_for_something_else_is_refused(tmp_path, override):
    (tmp_path / "c.toml").write_text('[data]\nkind = "imagefolder"\nroot = "data"\n')
    with pytest.raises(ConfigError, match=r"write --set table\.key=value"):
        load_config(tmp_path / "c.toml", [override])
