"""From one profile to another, and to a bucket, with nothing lost on the way."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import boto3
import numpy as np
import pytest
import zarr
from anndata.io import write_elem
from builders import dense, make_adata, write_h5ad, write_zarr
from command_line import refused, works
from moto.server import ThreadedMotoServer
from obstore.exceptions import GenericError, PermissionDeniedError, UnauthenticatedError
from range_server import serve

from tigon.storage import objects, open_atlas, uploading, write_atlas
from tigon.storage.converting import convert_atlas
from tigon.storage.digest import noted_digest
from tigon.storage.errors import InputError, OutputExistsError

SMALL: dict[str, Any] = {"chunk_nonzeros": 50, "shard_chunks": 3}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_zarr(path: Path) -> anndata.AnnData:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr")
        return anndata.read_zarr(path)


def rich_atlas(path: Path) -> Path:
    """An atlas to which its owner added an embedding, a layer and notes."""
    write_atlas(open_atlas(make_adata()), path, **SMALL)
    root = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_elem(root, "obsm", {"X_pca": np.arange(120.0).reshape(60, 2)})
        write_elem(root, "layers", {"double": make_adata().X * 2})
        write_elem(root, "uns/notes", {"who": "the owner"})
        zarr.consolidate_metadata(str(path))
    return path


def test_there_and_back_again(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr", **SMALL)
    there = convert_atlas(tmp_path / "a.zarr", tmp_path / "b.zarr", profile="network", **SMALL)
    back = convert_atlas(tmp_path / "b.zarr", tmp_path / "c.zarr", profile="local", **SMALL)
    assert there.digest == back.digest == open_atlas(tmp_path / "a.zarr").digest
    assert files_of(tmp_path / "c.zarr") == files_of(tmp_path / "a.zarr")
    assert files_of(tmp_path / "b.zarr") != files_of(tmp_path / "a.zarr")


def test_what_lies_beside_the_counts_is_kept(tmp_path: Path) -> None:
    rich_atlas(tmp_path / "a.zarr")
    convert_atlas(tmp_path / "a.zarr", tmp_path / "b.zarr", profile="network", **SMALL)
    before, after = read_zarr(tmp_path / "a.zarr"), read_zarr(tmp_path / "b.zarr")
    np.testing.assert_array_equal(after.obsm["X_pca"], before.obsm["X_pca"])
    np.testing.assert_array_equal(dense(after.layers["double"]), dense(before.layers["double"]))
    assert after.uns["notes"]["who"] == "the owner"
    assert list(after.uns["tigon"]["source_names"]) == ["adata0"]
    assert list(after.obs["batch"]) == list(before.obs["batch"])
    np.testing.assert_array_equal(dense(after.X), dense(before.X))


@pytest.mark.parametrize("name", ["~/a.zarr", "file://{home}/a.zarr"])
def test_a_source_is_the_same_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rich_atlas(tmp_path / "a.zarr")
    source = name.format(home=tmp_path)
    convert_atlas(source, tmp_path / "b.zarr", profile="network", **SMALL).close()
    assert list(read_zarr(tmp_path / "b.zarr").obsm) == ["X_pca"]


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_an_atlas_without_its_metadata_is_told(tmp_path: Path, damage: bytes | None) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr").close()
    metadata = tmp_path / "a.zarr/X/zarr.json"  # the root has a copy, from which it opens
    metadata.unlink()
    if damage is not None:
        metadata.write_bytes(damage)
    with open_atlas(tmp_path / "a.zarr") as atlas, pytest.raises(InputError, match="is damaged"):
        _ = atlas.digest


def test_sources_and_the_mask_are_kept(tmp_path: Path) -> None:
    parts = [make_adata(), make_adata(genes=[f"gene{i + 5}" for i in range(25)], prefix="b")]
    joined = write_atlas(open_atlas(parts, join="outer"), tmp_path / "a.zarr")
    after = convert_atlas(tmp_path / "a.zarr", tmp_path / "b.zarr", profile="network")
    assert after.source_names == joined.source_names
    np.testing.assert_array_equal(after.measured, joined.measured)
    np.testing.assert_array_equal(after.source_codes, joined.source_codes)


@pytest.mark.parametrize("write", [write_h5ad, write_zarr])
def test_files_of_others_are_ingested(tmp_path: Path, write: Any) -> None:
    source = write(make_adata(), tmp_path / "a.source")
    source = source.rename(source.with_suffix(".h5ad" if source.is_file() else ".zarr"))
    convert_atlas(source, tmp_path / "b.zarr", profile="network", **SMALL)
    np.testing.assert_array_equal(dense(read_zarr(tmp_path / "b.zarr").X), dense(make_adata().X))


def test_counts_changed_by_hand_are_refused(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr", **SMALL)
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="r+", use_consolidated=False)
    root["X/data"][7] += 1
    with pytest.raises(InputError, match="its counts or names are not those that were written"):
        convert_atlas(tmp_path / "a.zarr", tmp_path / "b.zarr", profile="network")
    assert not (tmp_path / "b.zarr").exists()


def test_from_a_web_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rich_atlas(tmp_path / "a.zarr")
    with serve(tmp_path) as url:
        convert_atlas(f"{url}/a.zarr", tmp_path / "b.zarr", profile="network")
    assert "only counts and tables are converted" in caplog.text
    np.testing.assert_array_equal(dense(read_zarr(tmp_path / "b.zarr").X), dense(make_adata().X))


def test_the_commands(tmp_path: Path) -> None:
    source = write_h5ad(make_adata(), tmp_path / "a.h5ad")
    a, b = tmp_path / "a.zarr", tmp_path / "b.zarr"
    done = works("ingest", source, "--out", a, "--profile", "network", "--json")
    assert json.loads(done.stdout)["n_cells"] == 60
    works("convert", a, b, "--profile", "local", "--n-threads", "1", "--quiet")
    assert open_atlas(a).digest == open_atlas(b).digest
    assert "exists: choose another name" in refused(tmp_path, "convert", a, b, "--profile", "local")
    limited = ("ingest", source, "--out", tmp_path / "c.zarr", "--memory-limit", "8MiB")
    assert "takes at least" in refused(tmp_path, *limited)


# Buckets


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    settings = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        client.create_bucket(Bucket="cells")
        yield client
    server.stop()


def objects_of(s3: Any, prefix: str) -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket="cells", Prefix=f"{prefix}/").get("Contents", [])
    return {
        each["Key"].removeprefix(f"{prefix}/"): s3.get_object(Bucket="cells", Key=each["Key"])[
            "Body"
        ].read()
        for each in listed
    }


def test_a_bucket_gets_the_same_bytes(s3: Any, tmp_path: Path) -> None:
    atlas = open_atlas(make_adata())
    write_atlas(atlas, tmp_path / "a.zarr", **SMALL)
    with write_atlas(atlas, "s3://cells/one/a.zarr", scratch=tmp_path / "s", **SMALL) as there:
        np.testing.assert_array_equal(there.read(0, 60).to_scipy().toarray(), dense(make_adata().X))
        assert there.digest == open_atlas(tmp_path / "a.zarr").digest
    assert objects_of(s3, "one/a.zarr") == files_of(tmp_path / "a.zarr")
    assert os.listdir(tmp_path / "s") == []  # noqa: PTH208


def test_a_store_in_a_bucket_is_replaced_when_asked_only(s3: Any, tmp_path: Path) -> None:
    url = "s3://cells/two.zarr"
    write_atlas(open_atlas(make_adata()), url, **SMALL)
    before = objects_of(s3, "two.zarr")
    smaller = open_atlas(make_adata(make_adata().X[:20]))
    with pytest.raises(OutputExistsError, match=r"two\.zarr exists: choose another name"):
        write_atlas(smaller, url)
    assert objects_of(s3, "two.zarr") == before
    write_atlas(smaller, url, overwrite=True, **SMALL)
    write_atlas(smaller, tmp_path / "a.zarr", **SMALL)
    assert objects_of(s3, "two.zarr") == files_of(tmp_path / "a.zarr")
    assert objects_of(s3, "two.zarr").keys() != before.keys()


def test_an_atlas_in_a_bucket_is_no_output_of_its_own(s3: Any) -> None:
    url = "s3://cells/three.zarr"
    write_atlas(open_atlas(make_adata()), url)
    with pytest.raises(InputError, match="is one of the sources"):
        convert_atlas(url, f"{url}/", profile="network", overwrite=True)
    assert open_atlas(url).n_cells == 60


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_upload_cut_off_anywhere_is_completed(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    prefix = f"four-{overwrite}.zarr"
    url = f"s3://cells/{prefix}"
    atlas = open_atlas(make_adata())
    write_atlas(atlas, tmp_path / "a.zarr", chunk_nonzeros=200)
    if overwrite:
        write_atlas(open_atlas(make_adata(seed=1)), url, **SMALL)

    def stop_after(limit: int) -> Any:
        def progress(stage: str, done: int, total: int, **_: float) -> None:
            if stage == "uploading objects" and done >= limit:
                raise KeyboardInterrupt

        return progress

    options: dict[str, Any] = {"overwrite": overwrite, "chunk_nonzeros": 200}
    for limit in (1, 5, 12):
        with pytest.raises(KeyboardInterrupt):
            write_atlas(atlas, url, progress=stop_after(limit), **options)
        with pytest.raises(InputError):
            open_atlas(url)
    write_atlas(atlas, url, **options)
    assert objects_of(s3, prefix) == files_of(tmp_path / "a.zarr")
    assert uploading.MARK not in objects_of(s3, prefix)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_in_a_bucket_is_left_alone(s3: Any, overwrite: bool) -> None:
    s3.put_object(Bucket="cells", Key="thesis/chapter1.tex", Body=b"years of work")
    with pytest.raises(InputError, match="is no Zarr store"):
        write_atlas(open_atlas(make_adata()), "s3://cells/thesis", overwrite=overwrite)
    assert objects_of(s3, "thesis") == {"chapter1.tex": b"years of work"}


def test_a_bucket_that_is_not_there(s3: Any, tmp_path: Path) -> None:
    source = write_h5ad(make_adata(), tmp_path / "a.h5ad")
    line = refused(tmp_path, "ingest", source, "--out", "s3://no-such-bucket/a.zarr")
    assert "s3://no-such-bucket/a.zarr cannot be written" in line


def test_what_lies_in_a_bucket_beside_the_counts_is_kept(s3: Any, tmp_path: Path) -> None:
    for name, content in files_of(rich_atlas(tmp_path / "a.zarr")).items():
        s3.put_object(Bucket="cells", Key=f"five.zarr/{name}", Body=content)
    convert_atlas("s3://cells/five.zarr", tmp_path / "b.zarr", profile="network", **SMALL)
    convert_atlas(tmp_path / "a.zarr", tmp_path / "c.zarr", profile="network", **SMALL)
    assert files_of(tmp_path / "b.zarr") == files_of(tmp_path / "c.zarr")


def test_the_digest_of_a_foreign_store_in_a_bucket(s3: Any, tmp_path: Path) -> None:
    files = files_of(write_zarr(make_adata(), tmp_path / "a.zarr"))

    def put(name: str, content: bytes) -> None:
        s3.put_object(Bucket="cells", Key=f"six.zarr/{name}", Body=content)

    for name, content in files.items():
        put(name, content)
    digest = open_atlas("s3://cells/six.zarr").digest
    assert digest is not None
    assert open_atlas("s3://cells/six.zarr").digest == digest
    put("extra", b"something changed")
    assert open_atlas("s3://cells/six.zarr").digest != digest
    with serve(tmp_path) as url:
        assert open_atlas(f"{url}/a.zarr").digest is None


@pytest.mark.parametrize("error", [PermissionDeniedError, UnauthenticatedError])
def test_a_bucket_that_may_not_be_listed_has_no_versions(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    monkeypatch.setattr(objects, "open_objects", lambda url: _Refusing(error))
    assert objects.list_versions("s3://bucket/a.zarr") is None


def test_a_bucket_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "open_objects", lambda url: _Refusing(GenericError))
    with pytest.raises(InputError, match=r"s3://bucket/a\.zarr: X/zarr\.json cannot be fetched"):
        noted_digest("s3://bucket/a.zarr")
    with pytest.raises(InputError, match="the list of its objects cannot be fetched"):
        objects.list_versions("s3://bucket/a.zarr")


class _Refusing:
    """A bucket whose every answer is an error."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def get(self, key: str) -> Any:
        raise self._error("the server said no")

    def list(self) -> Any:
        raise self._error("the server said no")
