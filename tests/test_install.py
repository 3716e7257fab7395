"""What is installed: only tigon/, typed, and quick to import."""

import importlib
import json
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

import tigon

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Not one of these may be loaded by `import tigon`.
SLOW = {
    "anndata",
    "cupy",
    "dask",
    "distributed",
    "h5py",
    "igraph",
    "jinja2",
    "leidenalg",
    "matplotlib",
    "numba",
    "obstore",
    "openTSNE",
    "pandas",
    "pynndescent",
    "rich",
    "scipy",
    "sklearn",
    "torch",
    "typer",
    "umap",
    "zarr",
}

# A worker imports the rooms; it needs numba and zarr, but not one of these.
SLOW_FOR_WORKERS = {
    "anndata",
    "igraph",
    "jinja2",
    "leidenalg",
    "matplotlib",
    "openTSNE",
    "pynndescent",
    "rich",
    "sklearn",
    "torch",
    "typer",
    "umap",
}

IMPORT_ROOMS = """
import importlib, json, pkgutil, sys
for room in ("tigon.kernels", "tigon.storage", "tigon.scaling"):
    package = importlib.import_module(room)
    for found in pkgutil.walk_packages(package.__path__, room + "."):
        # These need a GPU's libraries, or are of the driver (see test_layers.py).
        parts = found.name.split(".")
        if not {"gpu", "encoders"}.intersection(parts) and not parts[-1].endswith("estimator"):
            importlib.import_module(found.name)
"""


def _loaded_by(code: str, folder: Path) -> list[str]:
    """Names of the modules loaded once ``code`` has run in a fresh interpreter."""
    report = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code + report]
    ran = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return list(json.loads(ran.stdout))


def test_import_is_light(tmp_path: Path) -> None:
    loaded = _loaded_by("import tigon", tmp_path)
    assert "tigon" in loaded
    assert not SLOW.intersection(loaded)
    # The standard library's share of half a second: numpy alone is about 150 modules.
    assert len(loaded) < 400


def test_workers_import_only_what_they_need(tmp_path: Path) -> None:
    loaded = _loaded_by(IMPORT_ROOMS, tmp_path)
    assert "tigon.kernels" in loaded
    assert not SLOW_FOR_WORKERS.intersection(loaded)


def test_every_folder_with_modules_is_packaged() -> None:
    folders = SETTINGS["tool"]["setuptools"]["package-dir"]
    on_disk = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for package, folder in folders.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == on_disk


def test_types_are_announced() -> None:
    assert Path(tigon.__file__).with_name("py.typed").is_file()


def test_versions_agree() -> None:
    assert tigon.__version__ == distribution("tigon").version == SETTINGS["project"]["version"]


def test_command_is_declared_and_there() -> None:
    (script,) = distribution("tigon").entry_points.select(group="console_scripts")
    assert script.name == "tigon"
    assert callable(script.load())


def _files_of_wheel() -> list[Path]:
    files = [Path(str(file)) for file in distribution("tigon").files or []]
    if any(file.name.startswith("__editable__") for file in files):
        pytest.skip("installed for development: `make test` looks at the wheel")
    return files


def test_wheel_holds_only_tigon() -> None:
    version = SETTINGS["project"]["version"]
    tops = {file.parts[0] for file in _files_of_wheel() if file.parts[0] != ".."}
    assert tops == {"tigon", f"tigon-{version}.dist-info"}


def test_wheel_holds_every_module_and_its_data() -> None:
    installed = {file.as_posix() for file in _files_of_wheel()}
    folders = SETTINGS["tool"]["setuptools"]["package-dir"]
    for package, folder in folders.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in {".pyc", ".nbi", ".nbc"}:
                place = Path(package.replace(".", "/"), path.relative_to(ROOT / folder))
                assert place.as_posix() in installed


def test_tests_see_the_wheel_and_not_the_checkout() -> None:
    _files_of_wheel()
    for name in ("tigon", "tigon.kernels", "tigon.storage", "tigon.scaling"):
        where = Path(str(importlib.import_module(name).__file__))
        assert "site-packages" in where.parts


def test_public_names_do_not_depend_on_the_order_of_use(tmp_path: Path) -> None:
    for first, second in (("plan", "integrate"), ("integrate", "plan"), ("write_report", "open")):
        code = f"import tigon; tigon.{first}; assert callable(tigon.{second}); print(tigon.__all__)"
        command = [sys.executable, "-c", code]
        ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
