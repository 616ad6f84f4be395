"""Prompts: templates, and sentences chosen by a digest that every process agrees on."""

import json
import subprocess
import sys

import pytest

from discl.errors import ConfigError
from discl.prompts import Prompts, choice, fill

CLASSES = ("red fox", "käfer / beetle")


@pytest.fixture
def sentences(tmp_path):
    def write(table) -> str:
        file = tmp_path / "prompts.json"
        file.write_text(table if isinstance(table, str) else json.dumps(table), encoding="utf-8")
        return str(file)

    return write


def test_the_template_takes_the_class_name_as_it_is():
    assert Prompts("a photo of a {class}", "", CLASSES)("käfer / beetle", 3) == "a photo of a käfer / beetle"
    assert fill("{class}, {class}", "{seed}") == "{seed}, {seed}"  # a class name is never a template


def test_one_sentence_serves_a_class_and_seed(sentences):
    table = {name: [f"{name} number {i} of {{class}}" for i in range(10)] for name in CLASSES}
    prompts = Prompts("unused {class}", sentences({**table, "other": []}), CLASSES)
    chosen = {(name, seed): prompts(name, seed) for name in CLASSES for seed in range(50)}
    assert chosen == {place: prompts(*place) for place in chosen}
    for name in CLASSES:
        found = {chosen[name, seed] for seed in range(50)}
        assert found <= {f"{name} number {i} of {name}" for i in range(10)}
        assert len(found) > 5


def test_the_choice_is_the_same_in_another_process():
    code = "from discl.prompts import choice; print([choice('käfer', s, 1000) for s in (0, 1, 2**63 - 1)])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([choice("käfer", seed, 1000) for seed in (0, 1, 2**63 - 1)])


def test_the_template_wraps_the_sentence_where_it_says_so(sentences):
    file = sentences({name: ["a {class} at dusk"] for name in CLASSES})
    assert Prompts("a 8k real photo: {sentence}", file, CLASSES)("red fox", 1) == "a 8k real photo: a red fox at dusk"


@pytest.mark.parametrize("template", ["a {klass}", "a {}", "a {sentence}", "a {class!r}"])
def test_unknown_placeholders_are_named(template):
    with pytest.raises(ConfigError, match=r"spectrum\.prompt .*\{class\}"):
        Prompts(template, "", CLASSES)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("[", "not valid JSON"),
        ([1], "holds a list"),
        ({"red fox": ["a"]}, "no sentences for 'käfer / beetle'"),
        ({"red fox": [], "käfer / beetle": ["a"]}, "at least one sentence"),
        ({"red fox": "a", "käfer / beetle": ["a"]}, "needs a list"),
        ({"red fox": ["a", " "], "käfer / beetle": ["a"]}, "sentence 2 is blank"),
        ({"red fox": ["a {b}"], "käfer / beetle": ["a"]}, r"\{b\} is not known"),
        ({"red fox": ["a \ud800"], "käfer / beetle": ["a"]}, r"not valid JSON .*surrogates"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_prompt_file_is_explained(sentences, table, match):
    with pytest.raises(ConfigError, match=match):
        Prompts("{class}", sentences(table), CLASSES)


def test_a_class_that_stands_twice_in_the_file_loses_no_sentence(tmp_path):
    (tmp_path / "s.json").write_text('{"wolf": ["a wolf"], "wolf": ["another wolf"]}')
    with pytest.raises(ConfigError, match="class 'wolf' occurs twice; merge its sentences"):
        Prompts("{sentence}", str(tmp_path / "s.json"), ("wolf",))


def test_a_class_that_the_data_has_not_is_named_with_its_row(sentences):
    file = sentences('{\n "red fox": ["a"],\n "käfer / beetle": ["a"],\n "red foxx": ["b"]\n}')
    with pytest.raises(ConfigError, match=r"prompts\.json, row 4: class 'red foxx' .* nearest is 'red fox': rename"):
        Prompts("{class}", file, CLASSES, CLASSES)
    assert Prompts("{class}", file, CLASSES)("red fox", 1) == "a"


def test_a_missing_prompt_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.json: cannot be read"):
        Prompts("{class}", str(tmp_path / "absent.json"), CLASSES)
