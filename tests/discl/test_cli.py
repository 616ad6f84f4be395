"""The command line: exit codes, one line on stderr, results on stdout."""

import argparse
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from discl.cli import commands, main
from discl.cli.parser import make_parser
from discl.cli.stop import Interrupted, Stop
from discl.config import load_config
from discl.store import Store
from tests.discl.project import make_project


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models)


def discl(*argv) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "discl", *map(str, argv)], capture_output=True, text=True, timeout=120)


def arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """(command, argument) of all commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from arguments(below)
        else:
            yield parser.prog, action


def test_every_argument_of_every_command_is_explained():
    found = list(arguments(make_parser()))
    assert len(found) > 100
    assert not [(command, action.metavar or action.dest) for command, action in found if not action.help]
    assert "exit codes: 0 done; 1 the run failed; 2" in make_parser().format_help()


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = "import sys; from discl.cli.parser import make_parser; make_parser(); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
    done = discl("--help")
    assert done.returncode == 0
    for command in (
        "demo",
        "plan",
        "hard",
        "generate",
        "train",
        "evaluate",
        "report",
        "watch",
        "bench",
        "store",
        "doctor",
    ):
        assert command in done.stdout


@pytest.mark.parametrize("argv", [[], ["gnerate"], ["generate"], ["plan", "x.toml", "--fast"], ["store", "eat", "x"]])
def test_wrong_usage_is_one_line_and_exit_2(argv, capfd):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


def test_a_users_error_is_one_line_in_a_real_process(tmp_path):
    (tmp_path / "run.toml").write_text('[data]\nkind = "imagefolder"\nroot = "x"\n[spectrum]\nlevel = [0]\n')
    done = discl("generate", tmp_path / "run.toml")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("discl: ")
    assert "'level'" in line


def test_plan_counts_and_leaves_no_store(file, capfd):
    assert main(["plan", str(file), "--out", str(file.parent / "planned")]) == 0
    text = capfd.readouterr().out
    assert "20, of which 0 are in the store" in text
    assert "UNet evaluations  120" in text
    assert (file.parent / "planned" / "plan.txt").read_text() == text
    assert not (file.parent / "store").exists()


def test_plan_needs_no_model_and_reads_a_size_from_the_config(file, capfd):
    assert main(["plan", str(file), "--set", "model.path=", "--set", "spectrum.size=[64, 32]"]) == 0
    assert "unknown until [model] path is set" in capfd.readouterr().out


def test_hard_writes_a_list_that_the_rule_list_reads(file, capfd):
    assert main(["hard", str(file), "--out", str(file.parent)]) == 0
    out = capfd.readouterr().out
    assert f"{3:6d} {3:6d}  red fox" in out
    assert f"{0:6d} {6:6d}  common" in out
    listed = ["--set", "hard.rule=list", "--set", "hard.list=hard.txt"]
    assert main(["hard", str(file), *listed]) == 0
    assert capfd.readouterr().out.splitlines() == out.splitlines()[:-1]


def test_generate_prints_the_stores_path_and_plan_then_counts_it(file, capfd):
    out = file.parent / "elsewhere"
    assert main(["generate", str(file), "--out", str(out)]) == 0
    done = capfd.readouterr()
    assert done.out == f"{out}\n"
    assert "generate 20/20" in done.err
    assert "20 samples, 20 accepted" in done.err
    assert len(Store(out)) == 20
    assert main(["plan", str(file), "--set", f"store.path={out}"]) == 0
    assert "20, of which 20 are in the store" in capfd.readouterr().out
    assert main(["store", "verify", str(out)]) == 0
    image = next((out / "shards").glob("*.tar"))
    data = bytearray(image.read_bytes())
    data[700] ^= 1
    image.write_bytes(data)
    assert main(["store", "verify", str(out)]) == 1
    assert str(out) in capfd.readouterr().out
    assert main(["store", "verify", str(file.parent)]) == 2


def test_doctor_lists_versions_and_devices(capfd):
    assert main(["doctor"]) == 0
    text = capfd.readouterr().out
    assert "diffusers" in text
    assert "devices          cpu" in text
    assert "torch            works: torch " in text and "onnx             works: onnxruntime " in text
    assert "tensorrt         not here: " in text or "tensorrt         works: " in text
    assert "export onnx      works: onnx " in text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_exit_2(monkeypatch, capfd, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number), "/some/place")

    monkeypatch.setattr(commands, "_config", refuse)
    assert main(["hard", "run.toml"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"discl: /some/place: {os.strerror(number)}")


def test_a_defect_is_exit_1_and_its_traceback_goes_to_a_file(monkeypatch, capfd):
    def fail(*args):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(commands, "_config", fail)
    assert main(["hard", "run.toml"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    log = Path(line.split("traceback in ")[1].rstrip(")"))
    assert "ZeroDivisionError: a defect" in log.read_text()
    log.unlink()
    assert main(["-v", "hard", "run.toml"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_handlers_are_ours_only_while_a_command_runs(monkeypatch):
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with Stop():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before


def test_a_signal_waits_for_the_next_event_and_no_longer_than_the_grace(monkeypatch):
    import signal

    monkeypatch.setattr("discl.cli.stop.GRACE_S", 0.2)
    with Stop() as stop:
        stop.check({})
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM") as stopped:
            stop.check({})
        assert stopped.value.exit_code == 143
        stop.check({})  # sealing goes on undisturbed
    with Stop() as stop:
        stop.check({})
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted) as stopped:
            time.sleep(10)
        assert stopped.value.exit_code == 130


def test_before_long_work_a_signal_raises_at_once():
    import signal

    with Stop(), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)


def test_overrides_win_over_the_file(file):
    assert load_config(file, ["spectrum.steps=7"]).spectrum.steps == 7


@pytest.fixture
def uncompiled():
    import torch

    with torch._dynamo.config.patch(disable=True):
        yield


def test_train_then_evaluate_then_report(file, capfd, uncompiled):
    import json

    (file.parent / "train").mkdir()
    (file.parent / "data").rename(file.parent / "train" / "train")
    make_project(file.parent / "other", file.parent)
    (file.parent / "other" / "data").rename(file.parent / "train" / "test")
    out = str(file.parent / "run")
    small = ["curriculum.epochs=2", "curriculum.curriculum_epochs=1", "train.model=digitnet", "train.batch=4"]
    argv = [str(file), "--set", "data.root=train", *(part for pair in small for part in ("--set", pair))]
    assert main(["generate", *argv]) == 0
    assert main(["train", *argv, "--out", out]) == 0
    done = capfd.readouterr()
    assert done.out.splitlines()[-1] == out
    metrics = json.loads(Path(out, "metrics.json").read_text())
    assert f"train {metrics['steps']}/{metrics['steps']}, " in done.err and "% input wait" in done.err
    assert main(["evaluate", *argv, "--out", out]) == 0
    assert json.loads(capfd.readouterr().out)["test"]["overall"] == metrics["overall"]
    assert main(["report", out]) == 0
    assert Path(capfd.readouterr().out.strip()).is_file()
    assert main(["evaluate", *argv, "--out", out + "2"]) == 2
