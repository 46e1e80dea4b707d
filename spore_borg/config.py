"""Settings: what they are, where they come from, and how ``config.toml`` is read and written.

A setting given on the command line goes before the environment (``SPORE_BORG_<NAME>``), that before
``config.toml``, and that before the default. ``SETTINGS`` is the one list of them; the reference is made from it.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spore_borg.errors import ConfigError, UsageError

ENVIRONMENT_PREFIX = "SPORE_BORG_"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^\s\[\]:@/]+):([0-9]{1,5})\Z")
_HOST = re.compile(r"[^\s\[\]/@]+\Z")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

Value = str | int | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        name: as in ``config.toml``.
        default: its type is the setting's type: str, int, bool, or tuple (a list of texts).
        help: one line.
        low, high: bounds of an int, both inclusive; of a text or list: its greatest length is ``high``.
        choices: the only texts allowed, if any.
        form: what a text must look like: ``host`` or ``address`` (HOST:PORT); empty: anything printable.
    """

    name: str
    default: Value
    help: str
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()
    form: str = ""

    @property
    def type(self) -> str:
        """``text``, ``number``, ``switch`` or ``list``."""
        kinds: dict[type, str] = {bool: "switch", int: "number", str: "text", tuple: "list"}
        return kinds[type(self.default)]

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        if self.choices:
            return " or ".join(self.choices)
        if self.type == "number":
            return f"{self.low} to {self.high}"
        if self.type == "switch":
            return "true or false"
        what = {"host": "a host name or IP address", "address": "HOST:PORT"}.get(self.form, "text")
        if self.type == "list":
            return f"at most {self.high} times {what}"
        return what if self.form else f"at most {self.high} characters"

    def check(self, value: object) -> Value:
        """The value, if it may be one of this setting.

        Raises:
            ValueError: it may not; the text says what would do.
        """
        if self.type == "switch":
            if type(value) is not bool:
                raise ValueError("it is true or false")
            return value
        if self.type == "number":
            if type(value) is not int or not self.low <= value <= self.high:
                raise ValueError(f"it is a whole number from {self.low} to {self.high}, not {value!r}")
            return value
        if self.type == "list":
            if not isinstance(value, list | tuple) or len(value) > self.high:
                raise ValueError(f"it is a list of at most {self.high}")
            return tuple(self._check_text(item) for item in value)
        return self._check_text(value)

    def _check_text(self, value: object) -> str:
        if type(value) is not str:
            raise ValueError(f"it is a text, not {value!r}")
        if self.choices and value not in self.choices:
            raise ValueError(f"it is {self.range}, not {value!r}")
        if self.form == "address":
            match = _ADDRESS.match(value)
            if not match or not 0 < int(match[2]) < 65_536:
                raise ValueError(f"{value!r} is no HOST:PORT (an IPv6 address stands in [brackets])")
        elif self.form == "host":
            if not _HOST.match(value):
                raise ValueError(f"{value!r} is no host name or IP address")
        elif not self.choices and (len(value) > self.high or not value.isprintable()):
            raise ValueError(f"it has at most {self.high} printable characters")
        return value

    def read(self, text: str) -> Value:
        """The value that a text from the environment or the command line means. Raises ``ValueError``."""
        text = text.strip()
        if self.type == "switch":
            if text.lower() not in _TRUE + _FALSE:
                raise ValueError(f"it is true or false, not {text!r}")
            return text.lower() in _TRUE
        if self.type == "number":
            if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
                raise ValueError(f"it is a whole number from {self.low} to {self.high}, not {text!r}")
            return self.check(int(text))
        if self.type == "list":
            return self.check([part.strip() for part in text.split(",") if part.strip()])
        return self.check(text)


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("name", "", "Display name of this node, shown to others; empty for none.", high=64),
        Setting(
            "task", "nano", "First task of a new mesh.", choices=("pico", "nano", "micro", "lattice")
        ),
        Setting(
            "role", "research",
            "What this node does: research (and verify), verify only, or only sync records.",
            choices=("research", "verify", "sync"),
        ),
        Setting("resource", 100, "Share of this machine's processor time to use, in percent.", 1, 100),
        Setting(
            "threads", 1, "Threads of one experiment; part of the hardware class, so leave it at 1.", 1, 1024
        ),
        Setting(
            "epoch_ms", 15_000, "Length of an epoch of a new mesh, in milliseconds.", 200, 86_400_000
        ),
        Setting(
            "listen_host", "127.0.0.1",
            "Address on which peers may connect; 0.0.0.0 or :: for every network of this machine.", form="host",
        ),
        Setting(
            "listen_port", 8471, "Port for peers; the next free one if it is taken, 0 for any.", 0, 65_535
        ),
        Setting("peers", (), "Peers to dial at the start.", high=256, form="address"),
        Setting("explorer", True, "Whether the node serves the explorer's pages."),
        Setting("explorer_bind", "127.0.0.1", "Address on which the explorer's pages are served.", form="host"),
        Setting(
            "explorer_port", 8470, "Port of the explorer; the next free one if it is taken, 0 for any.", 0, 65_535
        ),
        Setting(
            "blob_budget_mb", 2_048, "Disk space for weights and states, in MB (10^6 bytes).", 16, 10_000_000
        ),
        Setting(
            "verify_bytes_max", 1_000_000_000,
            "Absorbed models are verified here up to this size of source and shard, in bytes; small ones always are.",
            0, 10**15,
        ),
        Setting(
            "verify_ops_max", 6_000_000_000,
            "The same, in operations of the source for one item of the probe suite.", 0, 10**15,
        ),
        Setting(
            "suite", "full",
            "Probe suite of a new mesh, on which absorbed models are measured; small is for trying out.",
            choices=("full", "small"),
        ),
        Setting(
            "refine_every_s", 900,
            "Least time between two refinements or merges that nobody asked for, in seconds, and before the first; "
            "they take a tenth of the time at most.", 0, 31_536_000,
        ),
        Setting(
            "device", "auto",
            "Where absorbed models answer; auto takes a graphics card that torch finds, for models worth it.",
            choices=("auto", "cpu", "cuda", "mps"),
        ),
        Setting("offline", False, "Whether to fetch nothing from outside the mesh: no packages, no model hubs."),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """The settings in force. Attributes are those of ``SETTINGS``.

    ``sources`` says for each setting where it comes from: default, file, environment or option; ``warnings`` holds
    a sentence for everything that was passed over; ``unknown`` what ``config.toml`` holds beyond the settings.
    """

    name: str
    task: str
    role: str
    resource: int
    threads: int
    epoch_ms: int
    listen_host: str
    listen_port: int
    peers: tuple[str, ...]
    explorer: bool
    explorer_bind: str
    explorer_port: int
    blob_budget_mb: int
    verify_bytes_max: int
    verify_ops_max: int
    suite: str
    refine_every_s: int
    device: str
    offline: bool
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Value]:
        """Every setting with its value, in the order of ``SETTINGS``."""
        return {name: getattr(self, name) for name in SETTINGS}


def load(
    path: Path, environ: Mapping[str, str] | None = None, options: Mapping[str, object] | None = None
) -> Config:
    """The settings in force.

    Args:
        path: ``config.toml``; it need not be there.
        environ: the environment, ``os.environ`` if None.
        options: from the command line; None as a value means not given.
    Raises:
        ConfigError: a value in the file is not usable.
        UsageError: one from the environment or the command line is not, or the file is not TOML.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Value] = {name: setting.default for name, setting in SETTINGS.items()}
    sources = dict.fromkeys(SETTINGS, "default")
    stored = _read(path)
    for name in SETTINGS.keys() & stored.keys():
        values[name], sources[name] = _checked(path, name, stored[name]), "file"
    for name, setting in SETTINGS.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environ:
            try:
                values[name], sources[name] = setting.read(environ[variable]), "environment"
            except ValueError as error:
                raise UsageError(
                    detail=f"The environment variable {variable} is not usable: {error}."
                ) from error
        given = (options or {}).get(name)
        if given is not None:
            try:
                values[name], sources[name] = setting.check(given), "option"
            except ValueError as error:
                raise UsageError(detail=f"The option for {name} is not usable: {error}.") from error
    unknown = {name: value for name, value in stored.items() if name not in SETTINGS}
    warnings = tuple(
        f"{path} has a setting {name} that this release does not know; it is left as it is."
        for name in sorted(unknown)
    )
    return Config(**values, sources=sources, warnings=warnings, unknown=unknown)  # type: ignore[arg-type]


def set_value(path: Path, name: str, text: str) -> Value:
    """Change one setting in ``config.toml``; it replaces the file as a whole. Returns the value.

    Raises:
        UsageError: there is no such setting. ConfigError: the value is not usable.
    """
    setting = _known(name)
    try:
        value = setting.read(text)
    except ValueError as error:
        raise ConfigError(name=name, path=path, detail=str(error)) from error
    write(path, {**_read(path), name: value})
    return value


def unset_value(path: Path, name: str) -> None:
    """Take one setting out of ``config.toml``, so that its default holds again. Raises ``UsageError``."""
    if name not in SETTINGS and name not in _read(path):
        _known(name)
    write(path, {key: value for key, value in _read(path).items() if key != name})


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``config.toml`` as a whole, or not at all; only the values given, each under its one-line help.

    Raises:
        ConfigError: a value is not usable; the old file stays.
    """
    lines = ["# Settings of spore-borg; `borg config` changes them. Comments of your own are not kept.", ""]
    for name, setting in SETTINGS.items():
        if name in values:
            value = _checked(path, name, values[name])
            lines += [f"# {setting.help} ({setting.range})", f"{name} = {_toml(value)}", ""]
    others = {name: value for name, value in values.items() if name not in SETTINGS}
    if others:
        lines.append("# Not known to this release:")
        lines += [f"{_key(name)} = {_toml(value)}" for name, value in others.items()]
    text = "\n".join(lines).rstrip("\n") + "\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _known(name: str) -> Setting:
    try:
        return SETTINGS[name]
    except KeyError:
        raise UsageError(detail=f"No setting {name}. There are: {', '.join(SETTINGS)}.") from None


def _checked(path: Path, name: str, value: object) -> Value:
    try:
        return SETTINGS[name].check(value)
    except ValueError as error:
        raise ConfigError(name=name, path=path, detail=str(error)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            detail=f"{path} is not TOML: {error}. Correct that line, or move the file away."
        ) from error


def _key(name: str) -> str:
    return name if _BARE_KEY.match(name) else _toml(name)


def _toml(value: object) -> str:
    """A value as TOML; tables are written on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else _escape(c) for c in escaped) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return repr(value)  # int and float (inf and nan are written alike)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
