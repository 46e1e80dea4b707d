"""``borg classify --mic`` against PortAudio itself: ALSA's ``file`` plugin is the microphone."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
import wave
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORD = """
import sys
from pathlib import Path
from spore_borg.errors import BorgError
from spore_borg.cli.cmd_classify import record
try:
    record(Path(sys.argv[1]), 1.0)
except BorgError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
RATE_HZ = 16_000
SECONDS = 4  # of sound in the device: more than is recorded


def portaudio() -> bool:
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        return False
    return sys.platform == "linux"


needs_portaudio = pytest.mark.skipif(not portaudio(), reason="needs the extra mic, PortAudio and ALSA")


def recorded(tmp_path: Path, sound: bytes | None, code: str = RECORD) -> subprocess.CompletedProcess[str]:
    """Record one second where the default device plays ``sound``; None: where the machine has its own devices."""
    (tmp_path / "sound.raw").write_bytes(sound or b"")
    device = f"""pcm.!default {{ type file slave.pcm {{ type null }} file /dev/null format raw
      infile "{tmp_path / "sound.raw"}" }}"""
    (tmp_path / "asound.conf").write_text(device)
    given = {} if sound is None else {"ALSA_CONFIG_PATH": str(tmp_path / "asound.conf")}
    return subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **given},
    )  # fmt: skip


@needs_portaudio
@pytest.mark.parametrize("hertz", [440, 0])
def test_what_the_microphone_hears_is_a_wav_file(tmp_path: Path, hertz: int) -> None:
    tone = [round(12_000 * math.sin(2 * math.pi * hertz * n / RATE_HZ)) for n in range(SECONDS * RATE_HZ)]
    done = recorded(tmp_path, struct.pack(f"<{len(tone)}h", *tone))
    assert done.returncode == 0, done.stderr
    assert "Records 1 s from default." in done.stderr and ("muted" in done.stderr) == (hertz == 0)
    with wave.open(str(tmp_path / "microphone.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE_HZ)
        heard = struct.unpack(f"<{file.getnframes()}h", file.readframes(RATE_HZ))
    assert len(heard) == RATE_HZ
    upward = sum(before < 0 <= after for before, after in pairwise(heard))
    assert upward in {hertz, max(0, hertz - 1)}
    assert max(heard) == max(tone)


@needs_portaudio
@pytest.mark.skipif(Path("/dev/snd").exists(), reason="this machine may have a microphone")
def test_without_a_microphone_it_says_so(tmp_path: Path) -> None:
    done = recorded(tmp_path, None)
    assert done.returncode == 2 and "no microphone" in done.stderr and "WAV file" in done.stderr


def test_without_the_extra_it_names_it(tmp_path: Path) -> None:
    done = recorded(tmp_path, None, f"import sys; sys.modules['sounddevice'] = None\n{RECORD}")
    assert done.returncode == 2 and "spore-borg[mic]" in done.stderr and "libportaudio2" in done.stderr
