"""Places: what is written is there whole or not at all, on this machine, in memory and on a real S3 server."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import PurePosixPath

import fsspec
import fsspec.config
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FileSelector

from dgym.errors import InfrastructureError, UsageError
from dgym.results.place import Place, read_file, write_file, write_files
from tests.s3 import KEY, SECRET, serving


@pytest.fixture(scope="module")
def s3():
    with serving() as url:
        yield url


@pytest.fixture(params=["path", "file", "memory", "s3"])
def place(request, tmp_path):
    """An empty place that does not exist yet."""
    name = request.node.name.replace("[", "-").rstrip("]")
    if request.param == "s3":
        return Place.of(f"{request.getfixturevalue('s3')}/{name}")
    made = {"path": str(tmp_path / name), "file": f"file://{tmp_path}/{name}", "memory": f"memory://{name}"}
    return Place.of(made[request.param])


def test_a_file_is_written_read_replaced_listed_and_removed(place):
    assert not place.is_folder()
    assert place.sizes() == {}
    place.write("old", "a=1", "b.json")
    place.write(b"newer", "a=1", "b.json")
    place.write("hidden", ".c")
    assert place.build(lambda file: [file.write(b"12"), file.write(b"3")], "d.parquet") == 3
    assert place.read("a=1", "b.json") == b"newer"
    assert place.sizes() == {PurePosixPath("a=1/b.json"): 5, PurePosixPath("d.parquet"): 3}
    assert place.files(suffix=".parquet") == [PurePosixPath("d.parquet")]
    assert place.below("a=1").files(suffix=".json") == [PurePosixPath("b.json")]
    assert (place.is_folder("a=1"), place.is_file("d.parquet"), place.size("d.parquet")) == (True, True, 3)
    place.remove("d.parquet")
    place.remove("d.parquet")
    assert not place.is_file("d.parquet")


def test_what_fails_while_it_is_written_changes_nothing(place):
    place.write("old", "a.json")

    def broken(file):
        file.write(b"half")
        raise KeyError("broken")

    with pytest.raises(KeyError):
        place.build(broken, "a.json")
    assert place.read("a.json") == b"old"
    # Hidden ones too: nothing is left behind.
    every = place.system.get_file_info(FileSelector(place.path, recursive=True))
    assert [PurePosixPath(info.path).name for info in every] == ["a.json"]


def test_a_place_knows_itself_and_travels_by_its_name(place):
    place.make()
    again = pickle.loads(pickle.dumps(place))
    assert again.name == place.name
    assert place.same_as(again)
    assert not place.same_as(again.below("inner"))
    assert place.sizes() == {}
    assert place.shown("x.md").endswith("/x.md")
    assert write_files(place.name, {"x.md": "text"}) == [place.shown("x.md")]
    assert Place.of(place.shown("x.md").rpartition("/")[0]).read("x.md") == b"text"


def test_what_another_process_wrote_is_seen(s3):
    place = Place.of(f"{s3}/two")
    place.write("1", "first")
    assert list(map(str, place.sizes())) == ["first"]
    code = f"from dgym.results.place import Place; Place.of({place.name!r}).write('2', 'second')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(map(str, sorted(place.sizes()))) == ["first", "second"]
    assert place.is_file("second")


def test_keys_are_not_passed_on(s3, monkeypatch):
    # fsspec's own configuration, as from FSSPEC_S3_KEY, becomes options of the file system.
    monkeypatch.setitem(fsspec.config.conf, "s3", {"key": KEY, "secret": SECRET})
    place = Place.of(f"{s3}/keys")
    place.make()
    assert SECRET in str(place.system.handler.fs.storage_options)
    assert SECRET.encode() not in pickle.dumps(place)
    assert SECRET not in repr(place)


def test_a_url_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(UsageError) as refused:
        Place.of("sftp://me:hush@host/runs")
    assert "password" in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UsageError, match=r'gs:// needs a package: pip install "dgym\[cloud\]"'):
        Place.of("gs://bucket/run")


def test_a_bucket_that_is_not_there_is_one_line(s3):
    with pytest.raises(InfrastructureError, match=r"cannot be written to 's3://nowhere/run': .*bucket does not exist"):
        Place.of("s3://nowhere/run").make()


class _Renames(MemoryFileSystem):
    """A file system where half-written files can be seen, as on an SFTP server."""

    protocol = "renames"
    put = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("renames://", "memory://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self.put.append(path)
        return super().pipe_file(path, value, mode, **kwargs)


def test_where_half_a_file_could_be_seen_it_is_renamed():
    fsspec.register_implementation("renames", _Renames, clobber=True)
    place = Place.of("renames://sftp/run")
    place.write("whole", "a", "b.json")
    (written,) = _Renames.put
    assert PurePosixPath(written).name.startswith(".b.json.")
    assert place.read("a", "b.json") == b"whole"
    assert list(map(str, place.sizes())) == ["a/b.json"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else for a moment")
def test_a_folder_without_permission_is_one_line(tmp_path):
    place = Place.of(tmp_path / "mine")
    place.make()
    os.seteuid(65534)
    try:
        with pytest.raises(InfrastructureError, match="Permission denied"):
            place.write("x", "a.json")
    finally:
        os.seteuid(0)
    assert place.sizes() == {}


def test_one_file_is_written_replaced_and_read_by_its_path_or_url(place):
    file = place.shown("a", "b.txt")
    with pytest.raises(UsageError, match=r"b\.txt cannot be read"):
        read_file(file)
    assert write_file(file, "old") == file
    assert write_file(file, b"newer") == file
    assert read_file(file) == b"newer"
    assert place.sizes() == {PurePosixPath("a/b.txt"): 5}
    for folder in (place.shown("a"), f"{place.shown('new')}/"):
        with pytest.raises(UsageError, match="is a folder"):
            write_file(folder, "text")
    with pytest.raises(UsageError, match="cannot be read"):
        read_file(place.shown("a"))
    assert place.sizes() == {PurePosixPath("a/b.txt"): 5}


def test_a_pipe_is_written_to_and_read_from_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, "through")
    assert pipe.is_fifo()
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    threading.Thread(target=pipe.write_bytes, args=(b"back",), daemon=True).start()
    assert read_file(pipe) == b"back"


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="below/a cannot be written: Not a directory") as said:
        write_file(tmp_path / "file" / "below" / "a", "x")
    assert "\n" not in str(said.value)
