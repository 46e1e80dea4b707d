"""Settings: where they come from, what is refused, and that the file is never half-written."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spore_borg import config
from spore_borg.config import SETTINGS, Config
from spore_borg.errors import ConfigError, UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "config.toml"


def test_the_table_and_the_class_name_the_same_settings() -> None:
    fields = [field.name for field in dataclasses.fields(Config)]
    assert fields[: len(SETTINGS)] == list(SETTINGS)
    for name, setting in SETTINGS.items():
        assert setting.check(setting.default) == setting.default
        assert setting.help.endswith(".")
        assert setting.range
        assert setting.type in ("text", "number", "switch", "list")
        assert name == setting.name


def test_defaults_need_no_file_and_stay_on_this_machine(path: Path) -> None:
    settings = config.load(path, {})
    assert settings.values() == {name: setting.default for name, setting in SETTINGS.items()}
    assert set(settings.sources.values()) == {"default"}
    assert settings.listen_host == settings.explorer_bind == "127.0.0.1"
    assert not path.exists()


def test_option_before_environment_before_file_before_default(path: Path) -> None:
    config.write(path, {"resource": 10, "threads": 2, "task": "pico"})
    environ = {"SPORE_BORG_RESOURCE": " 20 ", "SPORE_BORG_THREADS": "3", "SPORE_BORG_HOME": "/x"}
    settings = config.load(path, environ, {"resource": 30, "threads": None})
    assert (settings.resource, settings.threads, settings.task, settings.role) == (30, 3, "pico", "research")
    assert [settings.sources[name] for name in ("resource", "threads", "task", "role")] == [
        "option", "environment", "file", "default",
    ]  # fmt: skip
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("peers", "a.example:1, [::1]:8471 ,", ("a.example:1", "[::1]:8471")),
        ("peers", "", ()),
        ("explorer", "No", False),
        ("explorer", "ON", True),
        ("listen_port", "0", 0),
        ("name", 'Ann "the" \\ borg', 'Ann "the" \\ borg'),
        ("listen_host", "::", "::"),
    ],
)
def test_values_are_set_and_read_back(path: Path, name: str, text: str, value: Any) -> None:
    assert config.set_value(path, name, text) == value
    settings = config.load(path, {})
    assert getattr(settings, name) == value
    assert settings.sources[name] == "file"
    assert getattr(config.load(Path("/nowhere"), {f"SPORE_BORG_{name.upper()}": text}), name) == value
    config.unset_value(path, name)
    assert config.load(path, {}).sources[name] == "default"


BAD = [
    ("resource", "0"), ("resource", "101"), ("resource", "half"), ("resource", "1.5"), ("resource", "9" * 30),
    ("explorer", "maybe"), ("task", "huge"), ("role", ""), ("peers", "localhost"), ("peers", "host:0"),
    ("peers", "host:70000"), ("peers", "::1:80"), ("listen_host", ""), ("listen_host", "a b"),
    ("name", "x" * 65), ("name", "two\nlines"), ("epoch_ms", "-1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), BAD)
def test_bad_values_are_refused_with_advice(path: Path, name: str, text: str) -> None:
    config.write(path, {"resource": 50})
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=f"borg config set {name}"):
        config.set_value(path, name, text)
    with pytest.raises(UsageError, match=f"SPORE_BORG_{name.upper()}"):
        config.load(path, {f"SPORE_BORG_{name.upper()}": text})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line",
    ["resource = true", "resource = 5.0", "explorer = 1", "peers = 'a:1'", "name = 3", "task = ['nano']"],
)
def test_values_of_another_type_in_the_file_are_refused(path: Path, line: str) -> None:
    path.parent.mkdir()
    path.write_text(line)
    with pytest.raises(ConfigError, match=line.split(maxsplit=1)[0]):
        config.load(path, {})
    with pytest.raises(UsageError, match="option"):
        config.load(Path("/nowhere"), {}, tomllib.loads(line))


def test_unknown_settings_are_kept_with_a_warning(path: Path) -> None:
    path.parent.mkdir()
    text = 'resource = 7\n"odd key" = 1.5\nwhen = 2026-01-02\nflag = true\n[deep.er]\nx = ["a\\u0001", {b = inf}]\n'
    path.write_text(text)
    before = tomllib.loads(text)
    settings = config.load(path, {})
    assert len(settings.warnings) == 4
    assert "odd key" in settings.warnings[2]
    config.set_value(path, "threads", "4")
    assert tomllib.loads(path.read_text()) == {**before, "threads": 4}
    config.unset_value(path, "flag")
    assert "flag" not in config.load(path, {}).unknown


def test_what_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(UsageError, match=r"No setting colour\. There are: name, task"):
        config.set_value(path, "colour", "red")
    with pytest.raises(UsageError, match="No setting colour"):
        config.unset_value(path, "colour")
    path.parent.mkdir()
    path.write_text("resource = = 3")
    with pytest.raises(UsageError, match="is not TOML"):
        config.load(path, {})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        config.load(path, {})


def test_a_failed_write_leaves_the_old_file_and_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write(path, {"resource": 50})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(config.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        config.set_value(path, "resource", "60")
    assert config.load(path, {}).resource == 50
    assert [file.name for file in path.parent.iterdir()] == ["config.toml"]
    with pytest.raises(ConfigError):
        config.write(path, {"resource": "many"})


TEXT = st.text(st.characters(codec="utf-8"))
PLAIN = TEXT | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False)
ANY = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)


@given(ANY)
def test_every_value_survives_toml(value: Any) -> None:
    assert tomllib.loads(f"x = {config._toml(value)}") == {"x": value}
