from __future__ import annotations

import wave

import numpy as np
import pytest
import torch
from PIL import Image

from spore_borg.learn import items
from spore_borg.learn.errors import LearnError


def _wav(path, rate_hz, samples, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
    return path


def test_a_picture_becomes_grey_levels(tmp_path):
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "a.png")
    assert torch.equal(
        items.load({"path": str(tmp_path / "a.png")}, "image"),
        torch.arange(12, dtype=torch.uint8).reshape(3, 4),
    )


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
def test_sound_keeps_its_pitch_when_resampled(tmp_path, rate_hz):
    time = np.arange(rate_hz) / rate_hz
    tone = (10_000 * np.sin(2 * np.pi * 440 * time)).astype("<i2")
    sound = items.load(
        {"path": str(_wav(tmp_path / "a.wav", rate_hz, np.repeat(tone, 2), channels=2))}, "audio"
    )
    assert sound.dtype == torch.int16
    assert len(sound) == pytest.approx(16_000, abs=2)
    spectrum = np.abs(np.fft.rfft(sound.numpy().astype(float)))
    assert np.argmax(spectrum) * 16_000 / len(sound) == pytest.approx(440, abs=1.5)


def test_text_and_bytes():
    assert items.load({"text": "süß"}, "text") == "süß"
    assert items.load({"text": "süß"}, "bytes") == "süß".encode()
    with pytest.raises(LearnError, match="path"):
        items.load({"text": "a"}, "image")
    with pytest.raises(LearnError, match="text or a path"):
        items.load({}, "text")


def test_damaged_and_missing_files_are_told(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(LearnError, match="picture"):
        items.load({"path": str(tmp_path / "a.png")}, "image")
    (tmp_path / "a.wav").write_bytes(b"RIFF\0\0\0\0WAVEnothing")
    with pytest.raises(LearnError, match="WAV"):
        items.load({"path": str(tmp_path / "a.wav")}, "audio")
    with pytest.raises(LearnError, match="cannot be read"):
        items.load({"path": str(tmp_path / "absent")}, "bytes")
