"""The package mapping: imports run one way, no room is imported twice, the wheel holds every module and works alone."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"discl": "python/discl", "discl.engine": "engine", "discl.kernels": "kernels"}
# Who may import whom.
LEAVES = {"discl.errors", "discl.cache_folder"}
ALLOWED = {"kernels": {"discl.kernels"}, "engine": {"discl.engine", "discl.kernels"}}


def modules() -> dict[str, Path]:
    """Module name -> file, over all rooms."""
    found = {}
    for room, folder in ROOMS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([room, *(part for part in parts if part != "__init__")])] = file
    return found


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_run_one_way(room):
    allowed = ALLOWED[room] | LEAVES
    for file in (ROOT / room).rglob("*.py"):
        for name in imported(file):
            if name == "discl" or name.startswith("discl."):
                assert any(name == a or name.startswith(a + ".") for a in allowed), f"{file} imports {name}"


def test_no_module_is_imported_by_its_folders_name():
    for file in [*modules().values(), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        for name in imported(file):
            assert name.split(".")[0] not in {"engine", "kernels", "csrc", "python"}, f"{file} imports {name}"


def test_only_the_binding_files_of_csrc_include_pybind11():
    users = [file.name for file in (ROOT / "csrc").glob("*.*") if "#include <pybind11" in file.read_text()]
    assert "bind.h" in users and all(name == "module.cpp" or name.startswith("bind") for name in users), users
    assert not [file for file in (ROOT / "csrc").glob("*.*") if "#include <torch" in file.read_text()]


def test_importing_discl_is_cheap_and_offers_the_public_names():
    code = """
import sys, discl
heavy = [m for m in ("torch", "numpy", "diffusers", "open_clip", "nvidia", "pyarrow", "pydantic") if m in sys.modules]
assert not heavy, heavy
names = "Engine Request Sample Store SpectrumDataset CurriculumSampler CurriculumLoader DisclError"
names += " generate train load_config"
assert set(names.split()) <= set(dir(discl)), set(names.split()) - set(dir(discl))
for name in names.split():
    assert callable(getattr(discl, name)), name
import discl.generation, discl.training
assert callable(discl.generate) and callable(discl.train)
try:
    discl.Engin
except AttributeError as error:
    assert "Engine" in str(error)
else:
    raise SystemExit("no AttributeError")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_the_wheel_holds_every_module_and_works_outside_the_checkout(tmp_path):
    """Built from this checkout, unpacked elsewhere, imported with nothing else of ours on the path."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("discl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for module, file in modules().items():
        target = module.replace(".", "/")
        assert f"{target}.py" in names or f"{target}/__init__.py" in names, f"the wheel lacks {file}"
    data = [f for f in (ROOT / "python/discl").rglob("*") if f.is_file() and f.suffix not in {".py", ".so", ".pyc"}]
    for file in data:
        assert f"discl/{file.relative_to(ROOT / 'python/discl').as_posix()}" in names, f"the wheel lacks {file}"
    # -S and an explicit path keep the editable install's import hook out.
    code = f"""
import sys
sys.path[:0] = [{str(tmp_path / "site")!r}]
sys.path += {[path for path in sys.path if path.endswith("-packages")]!r}
import discl, discl._C, discl.engine.scheduler, discl.kernels, discl.cli
for module in (discl, discl._C, discl.engine.scheduler, discl.kernels, discl.cli):
    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__
assert discl.Engine.from_pretrained
ids = discl._C.order([(range(100), 10)], 0, 0, 0, 10, 0, 1)
assert len(set(ids.tolist())) == 10
"""
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=tmp_path)
