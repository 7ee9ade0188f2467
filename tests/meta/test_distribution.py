"""What is built and shipped: wheel, source distribution, extras, Dockerfile."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = {"ARG", "FROM", "RUN", "ENV", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def test_all_contains_every_extra_for_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    included = re.findall(r"\w+", extras["all"][0].partition("[")[2])
    # vllm and liger need a GPU; bench, docs and dev are for contributors.
    assert set(included) == set(extras) - {"vllm", "liger", "bench", "browser", "docs", "dev", "all"}


def test_dockerfile() -> None:
    """Instructions are known, build arguments are declared before use, and copied files exist."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    declared: set[str] = set()
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        assert word in INSTRUCTIONS, line
        if word == "ARG":
            declared.add(rest.partition("=")[0])
        if word == "COPY":
            assert all((ROOT / name).exists() for name in rest.split()[:-1]), line
        assert set(re.findall(r"\$\{(\w+)\}", rest)) <= declared | {"INDEX"}, line
    assert "FROM ${BASE}" in text


@pytest.mark.slow
def test_wheel_and_source_distribution(tmp_path: Path) -> None:
    """Both hold the package with its data files, and the wheel runs from a folder of its own."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("recipes/quickstart.yaml", "data/refusals.txt", "py.typed", "planning/gpus.json"):
        assert f"expunge/{name}" in names, name
    assert not [name for name in names if name.startswith(("tests/", "docs/", "perf/"))]

    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(tmp_path / "empty")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    # The dependencies are those of this environment; the package is the one that was just installed.
    paths = [str(tmp_path / "empty"), sysconfig.get_path("purelib")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    script = tmp_path / "empty" / "bin" / "expunge"
    done = subprocess.run(
        [sys.executable, str(script), "--version"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == importlib.metadata.version("expunge")
    where = subprocess.run(
        [sys.executable, "-c", "import expunge; print(expunge.__file__)"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert where.stdout.strip().startswith(str(tmp_path))


@pytest.mark.slow
def test_source_distribution_is_complete(tmp_path: Path) -> None:
    code = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/expunge/recipes/quickstart.yaml"} <= names
