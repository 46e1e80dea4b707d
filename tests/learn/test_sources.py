"""Sources against real archives, and a real pip with an index of this machine."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from spore_borg.learn import formats, sources
from spore_borg.learn.errors import SourceError
from spore_borg.learn.sources import archives, files, licences, pypi

WEIGHTS = save({"w": torch.arange(6.0)})
METADATA = "Metadata-Version: 2.1\nName: toy-model\nVersion: {}\nLicense-Expression: MIT\n\nA toy.\n"


def wheel(folder: Path, version: str, tags: str = "py3-none-any", **extra: bytes) -> Path:
    path = folder / f"toy_model-{version}-{tags}.whl"
    info = f"toy_model-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("toy_model/__init__.py", "raise SystemExit('imported')")
        out.writestr("toy_model/data/model.safetensors", WEIGHTS)
        out.writestr("toy_model/data/config.json", "{}")
        out.writestr("toy_model/data/vocab.txt", "a\nb\n")
        out.writestr("toy_model/data/corpus.txt", "left behind")
        out.writestr("toy_model/fast.so", b"\x7fELF")
        out.writestr(f"{info}/METADATA", METADATA.format(version))
        out.writestr(f"{info}/licenses/LICENSE", "MIT License")
        for name, raw in extra.items():
            out.writestr(name, raw)
    return path


def sdist(folder: Path, version: str, ran: Path, mode: str = "gz") -> Path:
    """An sdist whose setup.py leaves a trace when anything runs it."""
    path = folder / f"toy_model-{version}.tar.{mode}"
    top = f"toy_model-{version}"
    members = {
        f"{top}/PKG-INFO": METADATA.format(version).encode(),
        f"{top}/setup.py": f"open({str(ran)!r}, 'w')".encode(),
        f"{top}/pyproject.toml": b"[build-system]\nrequires = []\nbuild-backend = 'setup'\nbackend-path = ['.']\n",
        f"{top}/toy_model/model.safetensors": WEIGHTS,
        f"{top}/toy_model/toy_vocab.json": b"{}",
    }
    with tarfile.open(path, f"w:{mode}") as out:  # type: ignore[call-overload]
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            out.addfile(info, io.BytesIO(raw))
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that pip, configured by its environment alone, takes for its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def names(found: sources.Fetched) -> list[str]:
    return [name for name, _ in found.files]


def test_a_wheel_gives_a_models_files_and_its_licence(index: Path, tmp_path: Path) -> None:
    wheel(index, "1.0")
    path = wheel(index, "1.2")
    wheel(index, "2.0rc1")
    told: list[str] = []
    found = sources.fetch("pypi:Toy.Model", tmp_path / "out", each=told.append)
    assert names(found) == [
        "toy_model-1.2.dist-info/licenses/LICENSE",
        "toy_model/data/config.json",
        "toy_model/data/model.safetensors",
        "toy_model/data/vocab.txt",
    ]
    assert found.licence == "MIT"
    assert found.origin.startswith("pypi:Toy.Model==1.2 (toy_model-1.2-py3-none-any.whl, sha256 ")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in found.origin
    assert torch.equal(
        formats.open_weights(dict(found.files)["toy_model/data/model.safetensors"]).load("w"),
        torch.arange(6.0),
    )
    assert any("toy_model-1.2" in line for line in told)


def test_versions_and_paths_select(index: Path, tmp_path: Path) -> None:
    wheel(index, "1.0")
    wheel(index, "1.2")
    assert "==1.0 " in sources.fetch("pypi:toy-model==1.0", tmp_path / "a").origin
    assert "==1.0 " in sources.fetch("pypi:toy-model<1.1", tmp_path / "a").origin
    one = sources.fetch("pypi:toy-model==1.2:toy_model/data/corpus.txt", tmp_path / "a")
    assert names(one) == ["toy_model/data/corpus.txt"]  # named, so taken whatever it is
    part = sources.fetch("pypi:toy-model:toy_model/data", tmp_path / "a")
    assert len(part.files) == 3
    with pytest.raises(SourceError, match=r"no version ==9; there is 1\.2, 1\.0"):
        sources.fetch("pypi:toy-model==9", tmp_path / "a")
    with pytest.raises(SourceError, match="no file 'absent'"):
        sources.fetch("pypi:toy-model:absent", tmp_path / "a")
    with pytest.raises(SourceError, match="No index that pip uses"):
        sources.fetch("pypi:no-such-toy", tmp_path / "a")
    assert len(list((tmp_path / "a").iterdir())) == 4  # what failed left nothing


def test_an_sdist_is_read_and_its_setup_never_runs(index: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    sdist(index, "3.0", ran)
    found = sources.fetch("pypi:toy-model", tmp_path / "out")
    assert names(found) == ["toy_model/model.safetensors", "toy_model/toy_vocab.json"]
    assert found.licence == "MIT"
    assert not ran.exists()
    # The control: pip's own download command does run it.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-build-isolation",
        "-d",
        str(tmp_path),
    ]
    subprocess.run([*command, "toy-model"], capture_output=True, check=False)
    assert ran.exists()


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz", ""])
def test_sdists_of_every_compression_unpack(tmp_path: Path, mode: str) -> None:
    path = sdist(tmp_path, "3.0", tmp_path / "ran", mode)
    chosen, licence = archives.unpack(path, tmp_path / "out", lambda found: files.select(found, None, "x"))
    assert chosen == ["toy_model/model.safetensors", "toy_model/toy_vocab.json"] and licence == "MIT"
    assert (tmp_path / "out" / chosen[0]).read_bytes() == WEIGHTS


def test_a_wheel_of_any_platform_serves_and_a_pure_one_is_preferred(index: Path, tmp_path: Path) -> None:
    wheel(index, "1.0", "cp38-cp38-win_amd64")
    assert "win_amd64" in sources.fetch("pypi:toy-model", tmp_path / "a").origin
    sdist(index, "1.0", tmp_path / "ran")
    wheel(index, "1.0", "cp38-none-any")
    assert "cp38-none-any" in sources.fetch("pypi:toy-model", tmp_path / "a").origin


def test_an_index_page_whose_digest_is_wrong_is_not_believed(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = wheel(index, "1.0")
    page = tmp_path / "simple" / "toy-model"
    page.mkdir(parents=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", page.parent.as_uri())
    link = '<a href="{}#sha256={}">{}</a>'
    (page / "index.html").write_text(link.format(path.as_uri(), digest, path.name))
    assert names(sources.fetch("pypi:toy-model", tmp_path / "a"))
    (page / "index.html").write_text(link.format(path.as_uri(), "0" * 64, path.name))
    with pytest.raises(SourceError, match="another sha256 than its index says"):
        sources.fetch("pypi:toy-model", tmp_path / "a")
    with pytest.raises(SourceError, match="No index that pip uses"):
        sources.fetch("pypi:toy-model", tmp_path / "a", offline=True)


def test_yanked_files_are_taken_only_when_nothing_else_fits() -> None:
    entries = [
        ("toy-1.0.tar.gz", False),
        ("toy-2.0-py3-none-any.whl", True),
        ("toy-2.0.egg", False),
        ("toy-1-x.zip", False),
    ]
    made = [
        pypi.offer("toy", i, {"filename": f, "hash": [None, None], "yanked": y})
        for i, (f, y) in enumerate(entries)
    ]
    assert [one is None for one in made] == [False, False, True, True]
    offers = [one for one in made if one]
    assert pypi.choose("toy", pypi.SpecifierSet(), offers).filename == "toy-1.0.tar.gz"
    assert pypi.choose("toy", pypi.SpecifierSet("==2.0"), offers).filename == "toy-2.0-py3-none-any.whl"


@pytest.mark.parametrize(
    "source", ["pypi:", "pypi:-x", "pypi:a b", "pypi:x==", "hf:a/b/c", "hf:", "ftp:x", "", "absent"]
)
def test_a_source_that_is_none_is_refused_with_how_to_write_it(source: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Write (file|hf|pypi):"):
        sources.fetch(source, tmp_path)


def packed(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as out:
        for info, raw in members:
            info.size = len(raw)
            out.addfile(info, io.BytesIO(raw))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def every(found: list[str]) -> list[str]:
    return found


@pytest.mark.parametrize(
    "name", ["../out.json", "/tmp/out.json", "a/../../out.json", "C:\\out.json", "a\\b.json", "a\x01.json"]
)
def test_members_that_leave_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as out:
        out.writestr("fine.json", "{}")
        info = zipfile.ZipInfo("x")
        info.filename = name
        out.writestr(info, "{}")
    tar = packed(tmp_path / "a.tar.gz", [(member("fine.json"), b"{}"), (member(name), b"{}")])
    for archive in (tmp_path / "a.whl", tar):
        with pytest.raises(SourceError, match="outside its directory"):
            archives.unpack(archive, tmp_path / "out" / "in", every)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_never_made(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "outside").mkdir()
    members = [
        (member("d", kind, str(tmp_path / "outside")), b""),
        (member("d/model.json"), b"{}"),
        (member("e.json", kind, "/etc/passwd"), b""),
    ]
    chosen, _ = archives.unpack(packed(tmp_path / "a.tar.gz", members), tmp_path / "out", every)
    assert chosen == ["d/model.json"]
    assert not (tmp_path / "out" / "d").is_symlink()
    assert not list((tmp_path / "outside").iterdir())


def test_a_zip_with_a_link_does_not_make_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as out:
        info = zipfile.ZipInfo("secret.json")
        info.external_attr = 0o120777 << 16
        out.writestr(info, "/etc/passwd")
        out.writestr("fine.json", "{}")
    assert archives.unpack(tmp_path / "a.whl", tmp_path / "out", every)[0] == ["fine.json"]


def test_bombs_are_refused_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RATIO_FREE_BYTES", 1 << 20)
    raw = bytes(8 << 20)
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        out.writestr("model.bin", raw)
    tar = packed(tmp_path / "a.tar.gz", [(member("model.bin"), raw)])
    for archive in (tmp_path / "a.whl", tar):
        with pytest.raises(SourceError, match="bomb"):
            archives.unpack(archive, tmp_path / "out", every)
    assert not list(tmp_path.glob("out/*"))


def test_a_zip_that_understates_its_size_stops_at_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RATIO_FREE_BYTES", 1 << 10)
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        out.writestr("model.bin", bytes(8 << 20))
    raw = (tmp_path / "a.whl").read_bytes()
    size = (8 << 20).to_bytes(4, "little")
    (tmp_path / "b.whl").write_bytes(raw.replace(size, (1000).to_bytes(4, "little")))
    assert raw.count(size) == 2
    with pytest.raises(SourceError):
        archives.unpack(tmp_path / "b.whl", tmp_path / "out", every)
    written = sum(path.stat().st_size for path in tmp_path.glob("out/*"))
    assert written <= 1000


def test_a_tar_header_that_claims_gigabytes_is_not_read_into_memory(tmp_path: Path) -> None:
    info = member("x", tarfile.XHDTYPE)
    info.size = 4 << 30
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(4096))
    with pytest.raises(SourceError, match="bomb"):
        archives.unpack(tmp_path / "a.tar", tmp_path / "out", every)


def test_members_named_twice_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    twice = packed(tmp_path / "a.tar.gz", [(member("a.json"), b"1"), (member("a.json"), b"2")])
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(packed(tmp_path / "c.tar.gz", [(member("a.json"), os.urandom(9000))]).read_bytes()[:5000])
    (tmp_path / "no.whl").write_bytes(b"no archive at all")
    for bad in (twice, cut, tmp_path / "no.whl"):
        with pytest.raises(SourceError):
            archives.unpack(bad, tmp_path / "out", every)


def test_a_directory_is_read_in_place_and_links_out_of_it_are_left(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (tmp_path / "secret.json").write_text("{}")
    (model / "model.safetensors").write_bytes(WEIGHTS)
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (model / "notes.txt").write_text("left behind")
    (model / "out.json").symlink_to(tmp_path / "secret.json")
    (model / "inside.json").symlink_to(model / "README.md")
    (model / "up").symlink_to(tmp_path)
    told: list[str] = []
    found = sources.fetch(f"file:{model}", tmp_path / "out", each=told.append)
    assert names(found) == ["README.md", "inside.json", "model.safetensors"]
    assert found.licence == "apache-2.0" and found.name == "model"
    assert dict(found.files)["model.safetensors"] == (model / "model.safetensors").resolve()
    assert told == ["left out out.json: a link that leads out of the directory"]
    assert names(sources.fetch(str(model / "model.safetensors"), tmp_path)) == ["model.safetensors"]
    with pytest.raises(SourceError, match="no file of weights"):
        sources.fetch(f"file:{model / 'sub'}", tmp_path)
    with pytest.raises(SourceError, match="There is no file or directory"):
        sources.fetch("file:/no/such/place", tmp_path)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("License-Expression: Apache-2.0\nLicense: other\n", "Apache-2.0"),
        ("License: BSD 3-Clause\n", "BSD 3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        (
            "License: MIT License\n  \n  Permission is hereby granted, free of charge"
            + ", to any person" * 30
            + "\n",
            "MIT",
        ),
        ("Name: x\n", "unknown"),
    ],
)
def test_licences_of_packages(text: str, licence: str) -> None:
    assert licences.of_metadata(text) == licence


@pytest.mark.parametrize(
    ("licence", "told"),
    [
        ("MIT", None), ("Apache-2.0 OR MIT", None), ("GPL-3.0-or-later", None), ("BSD 3-Clause", None),
        ("MIT License", None), ("cc-by-sa-4.0", None),
        ("unknown", "names no licence"), ("", "names no licence"), ("other", "names no licence"),
        ("cc-by-nc-4.0", "restricts"), ("Research-only", "restricts"), ("MIT AND CC-BY-NC-4.0", "restricts"),
        ("llama2", "not one that is known"), ("Foo Public", "not one that is known"),
    ],
)  # fmt: skip
def test_the_note_on_a_licence(licence: str, told: str | None) -> None:
    note = sources.licence_note(licence)
    assert note is None if told is None else told in (note or "")


@pytest.mark.slow
def test_real_packages_give_their_weights(tmp_path: Path) -> None:
    found = sources.fetch("pypi:textgenrnn==2.0.0", tmp_path)
    assert "textgenrnn/textgenrnn_weights.hdf5" in names(found) and found.licence == "MIT"
    weights = formats.open_weights(dict(found.files)["textgenrnn/textgenrnn_weights.hdf5"])
    assert weights.shape("embedding/embedding/embeddings:0") == (465, 100)
    digits = sources.fetch(
        "pypi:digit-recognizer-py==0.1.0:digit_recognizer/models/handwriting_model.pth", tmp_path
    )
    assert len(formats.open_weights(digits.files[0][1]).names()) == 10
