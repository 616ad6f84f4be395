"""The examples of docs/deploy: well-formed, their discl commands parse, and a signal leaves time to seal."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from discl.cli.parser import make_parser

DEPLOY = Path(__file__).parent.parent / "docs" / "deploy"
FILES = sorted(DEPLOY.iterdir())
COMMAND = re.compile(r"\bdiscl (?:generate|store merge|store compact) [^\n]*")
# What the scripts call: discl seals for a moment when it is told to end.
PROGRAMS = {
    "discl": 'echo "$@" > called; trap "sleep 0.5; touch sealed; exit 143" TERM; touch ready; sleep 60 & wait',
    "scontrol": "echo node0",
    "srun": "true",
    "ray": "true",
}
SLURM = {
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_COUNT": "32",
    "SLURM_JOB_NODELIST": "node[0-3]",
    "SLURM_NNODES": "4",
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_its_discl_commands_parse(file):
    text = re.sub(r"\\\n#?|\n +(?=--)|>-\n", " ", file.read_text())  # continued lines are one
    found = [command for line in COMMAND.findall(text) for command in line.split("&&")]
    for command in found:
        words = re.sub(r"\$\w+", "1", command).replace('"', "").rstrip(" &").split()
        assert callable(make_parser().parse_args(words[1:]).command), command
    assert found or file.name == "Dockerfile"


@pytest.mark.parametrize("file", DEPLOY.glob("*.yaml"), ids=lambda file: file.name)
def test_it_is_yaml(file):
    assert all(isinstance(document, dict) for document in yaml.safe_load_all(file.read_text()))


@pytest.mark.parametrize(
    ("script", "called"), [("slurm-array.sh", "--part 3/32 --out s.part-3"), ("slurm-ray.sh", "node0:6379")]
)
@pytest.mark.timeout(60)
def test_a_script_that_is_told_to_end_waits_until_discl_has_sealed(tmp_path, script, called):
    assert "\n#SBATCH --signal=B:TERM@60\n" in (DEPLOY / script).read_text(), "without B: the script is not told"
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | SLURM | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    job = subprocess.Popen(["bash", DEPLOY / script, "run.toml", "s"], cwd=tmp_path, env=environment)
    while not (tmp_path / "ready").exists():
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 143
    assert (tmp_path / "sealed").exists() and called in (tmp_path / "called").read_text()
