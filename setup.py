"""Maps the rooms (top-level folders) to packages and hands the extension `discl._C` to CMake."""

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
ROOMS = {"discl": "python/discl", "discl.engine": "engine", "discl.kernels": "kernels"}


def packages() -> list[str]:
    """Every room and every package inside it: computed, so that a new subfolder reaches the wheel."""
    return [
        name
        for room, folder in ROOMS.items()
        for name in [room, *(f"{room}.{inner}" for inner in find_packages(str(ROOT / folder)))]
    ]


class CMakeBuild(build_ext):
    def build_extension(self, extension: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "cmake", str(ROOT), "-G", "Ninja",
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            ],
            cwd=build,
            check=True,
        )  # fmt: skip
        subprocess.run(["cmake", "--build", "."], cwd=build, check=True)


setup(
    package_dir=ROOMS,
    packages=packages(),
    package_data={"discl": ["*.pyi", "py.typed", "demo/*.toml", "configs/*", "demo/assets/**", "report/*"]},
    ext_modules=[Extension("discl._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    zip_safe=False,
)
