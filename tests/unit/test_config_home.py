"""The home directory: where it is, that it is private, and that one node at a time works in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spore_borg.errors import EXIT_LOCKED, Locked, UsageError
from spore_borg.home import Home, resolve

ROOT = Path(__file__).parent.parent.parent


def test_option_before_environment_before_platform(tmp_path: Path) -> None:
    environ = {"SPORE_BORG_HOME": str(tmp_path / "env")}
    assert resolve(str(tmp_path / "option"), environ) == tmp_path / "option"
    assert resolve(None, environ) == tmp_path / "env"
    assert resolve("~/borg", {}).is_relative_to(Path.home())
    assert resolve(None, {}).name == "spore-borg"
    assert resolve("here", {}).is_absolute()
    assert not (tmp_path / "option").exists()


def test_it_is_made_for_its_owner_only(tmp_path: Path) -> None:
    home = Home.find(tmp_path / "a" / "b").create()
    for path in (home.path, home.blobs, home.work):
        assert path.is_dir()
        assert path.stat().st_mode & 0o777 == 0o700
    home.path.chmod(0o755)
    home.create()
    assert home.path.stat().st_mode & 0o777 == 0o700
    names = [home.config, home.key, home.log, home.views, home.lock_file, home.control, home.node_log]
    assert len({path.name for path in names}) == len(names)
    assert all(path.parent == home.path for path in names)


def test_what_cannot_be_a_home_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="--home"):
        Home(tmp_path / "file").create()
    with pytest.raises(UsageError, match="too long"):
        Home(tmp_path / ("x" * 90)).create()


def test_two_nodes_do_not_share_a_home(tmp_path: Path) -> None:
    home = Home(tmp_path).create()
    assert home.holder() is None
    with home.lock():
        assert home.holder() == os.getpid()
        with pytest.raises(Locked, match=str(os.getpid())) as caught, home.lock():
            pass
        assert caught.value.exit_code == EXIT_LOCKED
    assert home.holder() is None
    with home.lock():
        pass


def test_a_killed_node_leaves_no_lock(tmp_path: Path) -> None:
    home = Home(tmp_path).create()
    code = (
        "import sys, time; from pathlib import Path; from spore_borg.home import Home\n"
        "with Home(Path(sys.argv[1])).lock(): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        assert home.holder() == child.pid
        with pytest.raises(Locked, match=f"process {child.pid}"), home.lock():
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert home.holder() is None
    with home.lock():
        assert home.holder() == os.getpid()
