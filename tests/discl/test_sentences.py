"""Files of prompt sentences: appended and merged, never lost; the writer is anybody's."""

import json

import pytest

from discl.cli import main
from discl.errors import ConfigError
from discl.prompts import Prompts
from discl.sentences import offline_writer, write_sentences


def test_the_offline_writer_varies_and_repeats_itself():
    first = offline_writer("red fox", 10)
    assert first == offline_writer("red fox", 10) and len(set(first)) == 10
    assert first != offline_writer("wolf", 10) and first == offline_writer("red fox", 20)[:10]
    for part in range(1, 5):
        assert len({sentence.split(", ")[part] for sentence in first}) > 2, "scene, light, pose and distance vary"
    assert all("{class}" in sentence and len(sentence.split()) >= 10 for sentence in first)


def test_what_the_file_has_stays_and_the_rest_is_added(tmp_path):
    file = tmp_path / "sentences.json"
    file.write_text(
        json.dumps({"wolf": ["a wolf howling on a hill"], "bear": ["kept as it is, although of another run"]})
    )
    table = write_sentences(file, ["wolf", "red fox"], count=4)
    assert json.loads(file.read_text()) == table
    assert table["bear"] == ["kept as it is, although of another run"]
    assert table["wolf"][0] == "a wolf howling on a hill" and len(table["wolf"]) == len(table["red fox"]) == 4
    before = file.read_bytes()
    write_sentences(file, ["wolf", "red fox"], lambda name, count: pytest.fail("asked again"), count=4)
    assert file.read_bytes() == before
    prompts = Prompts("{sentence}", str(file), ("red fox",))
    assert prompts("red fox", 10) in {text.replace("{class}", "red fox") for text in table["red fox"]}


def test_a_models_lines_are_cleaned_and_asked_for_again(tmp_path):
    asked = []

    def model(name, count):
        asked.append(name)
        return [
            f'{len(asked)}. "a {name} number {len(asked)} in\ud83d a field"',
            "",
            "too short",
            "- a {place} for all of us",
        ]

    table = write_sentences(tmp_path / "s.json", ["owl"], model, count=2)
    assert table == {"owl": ["a owl number 1 in a field", "a owl number 2 in a field"]} and asked == ["owl"] * 2
    with pytest.raises(ConfigError, match=r"s\.json: the writer gave 0 of 3 sentences for class 'cat'"):
        write_sentences(tmp_path / "s.json", ["cat"], lambda name, count: [""], count=3)
    assert json.loads((tmp_path / "s.json").read_text()) == table


def test_sentences_that_are_no_list_are_not_taken_apart(tmp_path):
    (tmp_path / "s.json").write_text('{"wolf": "a wolf howling on a hill"}')
    with pytest.raises(ConfigError, match="class 'wolf' needs a list of at least one sentence; write"):
        write_sentences(tmp_path / "s.json", ["wolf"])


def test_on_the_command_line(tmp_path, capsys):
    (tmp_path / "run.toml").write_text('[data]\nkind = "digits-lt"\nroot = "d"\n[hard]\nfew_below = 5\n')
    out = tmp_path / "sentences.json"
    assert main(["prompts", str(tmp_path / "run.toml"), "--out", str(out), "--count", "3"]) == 0
    assert {name: len(found) for name, found in json.loads(out.read_text()).items()} == dict.fromkeys(
        ("seven", "eight", "nine"), 3
    )
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize("count", [0, -3])
def test_no_sentences_are_no_file(tmp_path, count):
    with pytest.raises(ConfigError, match=f"{count} sentences per class are none; ask for at least 1"):
        write_sentences(tmp_path / "s.json", ["fox"], count=count)
    assert not (tmp_path / "s.json").exists()
