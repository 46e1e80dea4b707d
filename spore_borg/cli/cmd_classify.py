"""``borg classify``: what texts, pictures, sounds or files are, by the absorbed classifiers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from spore_borg.cli import asking
from spore_borg.cli import frame as cli
from spore_borg.errors import NotFound, UsageError

RATE_HZ = 16_000


@cli.command("classify")
@click.argument("items", nargs=-1, metavar="[TEXT|FILE]…")
@click.option("--model", metavar="NAME", help="Only this model (name or id).")
@click.option(
    "--modality", type=click.Choice(["text", "smiles", "image", "audio", "bytes"]), help="What the items are."
)
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="How many classes to show.",
)
@click.option(
    "--mic",
    "seconds",
    type=click.FloatRange(0.1, 60),
    metavar="SECONDS",
    help="Record a sound from the microphone (needs the extra mic, and PortAudio).",
)
def command(
    frame: cli.Frame,
    items: tuple[str, ...],
    model: str | None,
    modality: str | None,
    top: int,
    seconds: float | None,
) -> None:
    """What texts, pictures, sounds or files are.

    Pictures are PNG or JPEG, sounds WAV. Without arguments it reads lines from stdin.

    Models that know the same classes are averaged by weight; every model's own opinion is shown. A picture or sound
    for which no model has been absorbed is looked at as a file.
    """
    if seconds is not None and (items or modality not in {None, "audio"}):
        raise UsageError(
            detail="--mic records the one sound to classify; give no items and no other modality."
        )
    with tempfile.TemporaryDirectory() as scratch:
        given = [record(Path(scratch), seconds)] if seconds is not None else asking.items_of(items)
        kind = asking.modality_of(given, modality)
        answers = _ask(frame, given, kind, model, top, fall_back=modality is None)
    rows = [{"item": item, **said} for item, said in zip(given, answers, strict=True)]
    cli.output(frame, {"items": rows, "modality": kind}, render)


def _ask(
    frame: cli.Frame, given: list[asking.Item], kind: str, model: str | None, top: int, *, fall_back: bool
) -> list[dict[str, Any]]:
    from spore_borg.node.asking import ask
    from spore_borg.store.voices import Voice, choose

    def voices(known: list[Voice]) -> list[Voice]:
        try:
            return choose(known, "classify", kind, model=model)
        except NotFound:
            if not fall_back or kind == "bytes":
                raise
            try:
                return choose(known, "classify", "bytes", model=model)
            except NotFound:
                pass  # the first reason is the one that helps
            raise

    return ask(frame.home, "classify", voices, given, {"top": top})


def record(scratch: Path, seconds: float) -> asking.Item:
    """A recording from the default microphone as a WAV file.

    Raises:
        UsageError: the extra, PortAudio or a microphone is not there, or it gives no sound.
    """
    import wave

    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise UsageError(
            detail="Recording needs an extra and PortAudio: pip install 'spore-borg[mic]' and, on Linux, the package "
            "libportaudio2. Or give a WAV file."
        ) from error
    try:
        name = cli.one_line(str(sounddevice.query_devices(kind="input")["name"]))
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UsageError(detail="This machine has no microphone. Connect one, or give a WAV file.") from error
    cli.note(f"Records {seconds:g} s from {name}.")
    try:
        sound = sounddevice.rec(
            int(seconds * RATE_HZ), samplerate=RATE_HZ, channels=1, dtype="int16", blocking=True
        )
    except sounddevice.PortAudioError as error:
        raise UsageError(detail=f"No sound could be recorded: {error}. Give a WAV file instead.") from error
    if not sound.any():
        cli.note("Nothing but silence came: is the microphone muted?")
    path = scratch / "microphone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(sound.tobytes())
    return {"path": str(path)}


def render(value: dict[str, Any]) -> str:
    """One table of classes for each item: what the models say together, or each by itself where they differ."""
    parts = []
    for row in value["items"]:
        head = f"{asking.label(row['item'])} (by {asking.spoke(row['models'])})"
        known = {frozenset(entry["label"] for entry in model["labels"]) for model in row["models"]}
        if len(known) == 1:
            table = cli.table(["class", "probability>"], map(_line, row["labels"]))
        else:
            lines = [(model["name"], *_line(entry)) for model in row["models"] for entry in model["labels"]]
            table = cli.table(["model", "class", "probability>"], lines)
        parts.append(f"{head}\n{table}")
    return "\n\n".join(parts)


def _line(entry: dict[str, Any]) -> tuple[str, str]:
    return cli.one_line(str(entry["label"])), f"{entry['probability']:.3f}"
