"""The rooms of the house: who may import whom, read from the source without running it.

kernels and storage do not know each other; scaling imports both; the front door
(src/tigon) imports all; nothing imports back. Some libraries live in one room only.
Imports for type checkers (TYPE_CHECKING) must keep the direction, but may name any library.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"tigon.kernels": "kernels", "tigon.storage": "storage", "tigon.scaling": "scaling"}

# Rooms of Tigon that each room may import.
MAY_IMPORT = {
    "tigon.kernels": {"tigon.kernels"},
    "tigon.storage": {"tigon.storage"},
    "tigon.scaling": {"tigon.scaling", "tigon.kernels", "tigon.storage"},
    "tigon": {"tigon", "tigon.kernels", "tigon.storage", "tigon.scaling"},
}

# Where each library lives: names of modules or of whole rooms.
HOMES = {
    "anndata": ["tigon.storage", "tigon"],
    # A mini-batch may be asked for on a device, where another program's kernels wait for it.
    "cupy": ["tigon.kernels", "tigon.storage.minibatches.device"],
    "cupyx": ["tigon.kernels", "tigon.storage.minibatches.device"],
    "dask": ["tigon.scaling.engine", "tigon.storage.minibatches", "tigon.storage.views"],
    "distributed": ["tigon.scaling.engine"],
    "h5py": ["tigon.storage"],
    "jinja2": ["tigon"],
    "matplotlib": ["tigon"],
    # Rows are copied, and entries of the pack coded, by some lines without the interpreter's lock.
    "numba": ["tigon.kernels", "tigon.storage.packs.coding", "tigon.storage.slices"],
    "obstore": ["tigon.storage"],
    "openTSNE": ["tigon.scaling.embedding.tsne"],
    "rich": ["tigon"],
    "starlette": ["tigon"],
    # Mini-batches feed other people's torch models too, as its own kind of data set.
    "torch": ["tigon.scaling.encoders", "tigon.storage.minibatches.torch"],
    "typer": ["tigon"],
    "uvicorn": ["tigon"],
    "xarray": ["tigon.storage.runs", "tigon.storage.views"],
    "zarr": ["tigon.storage"],
}

# Slow to import: workers import the rooms, so only functions may ask for them there.
INSIDE_FUNCTIONS = {
    "anndata",
    "dask",
    "igraph",
    "leidenalg",
    "matplotlib",
    "openTSNE",
    "pynndescent",
    "scanpy",
    "sklearn",
    "torch",
    "umap",
    "xarray",
}

NOT_DEPENDED_ON = {"scanpy", "scvi", "pyliger", "rliger", "harmonypy", "nmf"}


@dataclass(frozen=True)
class Import:
    """One imported module: who imports it, and when.

    ``when`` is "load" (with the importer), "call" (inside a function) or "never"
    (for type checkers).
    """

    importer: str
    module: str
    line: int
    when: str

    @property
    def library(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}"


def _modules() -> Iterator[tuple[str, Path]]:
    """Dotted name and path of every module of the package."""
    for package, folder in {**FOLDERS, "tigon": "src/tigon"}.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def _imports(name: str, path: Path) -> Iterator[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    yield from _walk(ast.parse(path.read_text()), name, package, "load")


def _walk(node: ast.AST, name: str, package: str, when: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(name, alias.name, child.lineno, when)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(child, package)
            for alias in child.names:
                yield Import(name, f"{base}.{alias.name}", child.lineno, when)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(child, name, package, "never")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, name, package, "call")
        else:
            yield from _walk(child, name, package, when)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if node.level == 0:
        return str(node.module)
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def _is_in(module: str, home: str) -> bool:
    """Whether a module lives in a room; "tigon" is the front door, not what it opens on."""
    if home == "tigon":
        return _room(module) == "tigon"
    return module == home or module.startswith(home + ".")


def _room(module: str) -> str:
    return next((room for room in FOLDERS if _is_in(module, room)), "tigon")


ALL = [found for name, path in _modules() for found in _imports(name, path)]


def test_the_walk_sees_the_package() -> None:
    rooms = {_room(found.importer) for found in ALL}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_in_one_direction(room: str) -> None:
    inside = [found for found in ALL if _room(found.importer) == room and found.library == "tigon"]
    wrong = [str(found) for found in inside if _room(found.module) not in MAY_IMPORT[room]]
    assert not wrong


def test_rooms_are_imported_under_their_installed_names() -> None:
    wrong = [str(found) for found in ALL if found.library in FOLDERS.values()]
    assert not wrong


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_at_home(library: str) -> None:
    users = [found for found in ALL if found.library == library and found.when != "never"]
    homes = HOMES[library]
    wrong = [str(found) for found in users if not any(_is_in(found.importer, h) for h in homes)]
    assert not wrong


def test_rooms_that_workers_import_load_nothing_slow() -> None:
    wrong = [
        str(found)
        for found in ALL
        if found.when == "load"
        and found.library in INSIDE_FUNCTIONS
        and _room(found.importer) != "tigon"
        and not _is_of_the_driver(found.importer)
    ]
    assert not wrong


def test_only_the_front_door_loads_what_is_of_the_driver() -> None:
    wrong = [
        str(found)
        for found in ALL
        if found.when == "load"
        and _is_of_the_driver(found.module)
        and _room(found.importer) != "tigon"
        and not _is_of_the_driver(found.importer)
    ]
    assert not wrong


def _is_of_the_driver(module: str) -> bool:
    """Estimators extend scikit-learn's classes, encoders torch's: tasks never need them."""
    estimator = any(part.endswith("estimator") for part in module.split("."))
    return estimator or _is_in(module, "tigon.scaling.encoders")


def test_peers_are_not_depended_on() -> None:
    wrong = [str(found) for found in ALL if found.library in NOT_DEPENDED_ON]
    assert not wrong


SOURCE = """
import zarr
from typing import TYPE_CHECKING
from . import sibling
from ..other import thing
if TYPE_CHECKING:
    import torch
try:
    import cupy
except ImportError:
    pass
class A:
    import umap
def f():
    from sklearn import metrics
"""


def test_the_walk_tells_imports_apart() -> None:
    found = _walk(ast.parse(SOURCE), "tigon.storage.sources.m", "tigon.storage.sources", "load")
    assert {(each.module, each.when) for each in found} == {
        ("zarr", "load"),
        ("typing.TYPE_CHECKING", "load"),
        ("tigon.storage.sources.sibling", "load"),
        ("tigon.storage.other.thing", "load"),
        ("torch", "never"),
        ("cupy", "load"),
        ("umap", "load"),
        ("sklearn.metrics", "call"),
    }
