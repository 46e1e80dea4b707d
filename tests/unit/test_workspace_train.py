"""Training, evaluation and replay on a task small enough for a test: about 0.1 CPU seconds a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workspace import data, evaluate, harness, random, tasks, tensors
from workspace.recipe import RecipeError
from workspace.train import CpuLimit, Crashed, Gpt, Run, count_flops, plan

SEED = 2**64 - 5


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "bible.safetensors"
    data.build(path)
    return path


@pytest.fixture(scope="module")
def task(data_path: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    small = tasks.spec(
        "pico", budget_flops=1_500_000_000, floor_flops_per_step=1_000_000, blocks=8, segments=4
    )
    small["baseline"] |= {"depth": 1, "width": 16, "heads": 1, "batch": 2}
    small["val_bytes"] = evaluate.val_bytes(small, data.load(data_path))
    return small


@pytest.fixture(scope="module")
def run(task: dict[str, Any], data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return harness.train(task, task["baseline"], SEED, data_path, tmp_path_factory.mktemp("run"))


def test_the_default_corpus_is_tokenised_without_loss(data_path: Path) -> None:
    found = data.load(data_path)
    tokenizer = data.tokenizer_of(data_path)
    text = tokenizer.decode(found.val[:400].tolist())
    assert "heavens" in text
    assert "`" not in text
    assert sum(found.token_bytes[found.val[:400]]) == len(text.encode())
    assert tensors.read_metadata(data_path)["licence"].startswith("text: public domain")


def test_shipped_val_bytes_are_those_of_the_default_corpus(data_path: Path) -> None:
    loaded = data.load(data_path)
    for name in tasks.NAMES:
        assert evaluate.val_bytes(tasks.spec(name), loaded) == tasks.spec(name)["val_bytes"]


def test_a_dataset_file_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    chance = random.words(5, 9, 0, 60_000)
    syllables = ("ba", "ko", "lim", "tur", "es", "ny", "vag", "or", "pel", "dri")
    words = [
        "".join(syllables[int(word >> i) % 10] for i in range(0, 3 * (1 + int(word) % 4), 3))
        for word in chance.tolist()
    ]
    (text / "a.txt").write_text("\n\n".join(" ".join(words[i : i + 50]) for i in range(0, len(words), 50)))
    for name in ("one", "two"):
        data.build(tmp_path / name, text)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff\xfe\x00"])
def test_unusable_text_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(data.DataError):
        data.build(tmp_path / "out", tmp_path / "t.txt")
    assert not (tmp_path / "out").exists()


def test_a_run_claims_what_its_losses_add_up_to(task: dict[str, Any], run: dict[str, Any]) -> None:
    assert run["status"] == "done"
    assert run["metric"] == sum(run["losses"]) // task["val_bytes"]
    assert len(run["digests"]) == task["segments"] + 1
    assert run["flops"] <= task["budget_flops"]
    assert run["curve"][-1] < run["curve"][0]
    assert run["state_paths"][0] is None
    json.dumps(run)


def test_another_seed_is_another_run(
    task: dict[str, Any], run: dict[str, Any], data_path: Path, tmp_path: Path
) -> None:
    other = harness.train(task, task["baseline"], SEED - 1, data_path, tmp_path)
    assert other["digests"][0] != run["digests"][0]
    assert other["metric"] != run["metric"]


def test_weights_give_the_claimed_losses_in_any_choice_of_blocks(
    task: dict[str, Any], run: dict[str, Any], data_path: Path
) -> None:
    found = harness.evaluate(task, task["baseline"], data_path, Path(run["weights_path"]), [6, 1])
    assert found["losses"] == [[6, run["losses"][6]], [1, run["losses"][1]]]
    assert found["params"] == run["params"]
    with pytest.raises(data.DataError, match="no block 8"):
        harness.evaluate(task, task["baseline"], data_path, Path(run["weights_path"]), [8])


def test_weights_that_do_not_fit_or_give_no_number_are_refused(
    task: dict[str, Any], run: dict[str, Any], data_path: Path, tmp_path: Path
) -> None:
    weights = Path(run["weights_path"])
    with pytest.raises(data.DataError, match="does not fit the recipe"):
        harness.evaluate(task, {**task["baseline"], "depth": 2}, data_path, weights, [0])
    broken = {name: np.full_like(array, np.nan) for name, array in tensors.load(weights).items()}
    tensors.save(tmp_path / "nan", broken)
    with pytest.raises(evaluate.NotFinite):
        harness.evaluate(task, task["baseline"], data_path, tmp_path / "nan", [0])
    (tmp_path / "cut").write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(tensors.TensorError):
        harness.evaluate(task, task["baseline"], data_path, tmp_path / "cut", [0])


def test_every_segment_replays_bit_for_bit(
    task: dict[str, Any], run: dict[str, Any], data_path: Path
) -> None:
    for segment, state in enumerate(run["state_paths"]):
        path = None if state is None else Path(state)
        again = harness.replay(
            task, task["baseline"], SEED, data_path, segment, state_path=path, inner_step=2
        )
        assert again["start"] == run["digests"][segment]
        assert again["end"] == run["digests"][segment + 1]
        assert again["inner"] not in (again["start"], again["end"])


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon"])
def test_every_optimizer_replays_in_a_fresh_process(
    task: dict[str, Any], data_path: Path, tmp_path: Path, optimizer: str
) -> None:
    changes: dict[str, Any] = {
        "opt": optimizer, "act": "swiglu", "value_embed": True, "x0_skip": True, "pos": "learned", "zloss": 100,
        "norm": "layernorm", "sched": "cosine", "lr": 1_000,
    }  # fmt: skip
    recipe = {**task["baseline"], **changes}
    first = harness.train(task, recipe, 3, data_path, tmp_path)
    code = (
        "import sys, json, torch; torch.set_num_threads(1); from pathlib import Path; from workspace import harness\n"
        "a = json.load(sys.stdin)\n"
        "print(json.dumps(harness.replay(a[0], a[1], 3, Path(a[2]), 3, state_path=Path(a[3]))))"
    )
    sent = json.dumps([task, recipe, str(data_path), first["state_paths"][3]])
    root = Path(harness.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], input=sent, capture_output=True, text=True, check=True, cwd=root
    )
    again = json.loads(done.stdout)
    assert (again["start"], again["end"]) == (first["digests"][3], first["digests"][4])


def test_a_changed_state_or_a_wrong_one_shows(
    task: dict[str, Any], run: dict[str, Any], data_path: Path, tmp_path: Path
) -> None:
    state = Path(run["state_paths"][2])
    arrays = {name: array.copy() for name, array in tensors.load(state).items()}
    arrays["p.embed.weight"][0, 0] = np.nextafter(arrays["p.embed.weight"][0, 0], np.float32(9))
    tensors.save(tmp_path / "nudged", arrays)
    again = harness.replay(task, task["baseline"], SEED, data_path, 2, state_path=tmp_path / "nudged")
    assert again["start"] != run["digests"][2]
    with pytest.raises(data.DataError, match="segment 1 starts at step"):
        harness.replay(task, task["baseline"], SEED, data_path, 1, state_path=state)
    with pytest.raises(data.DataError, match="no segment 4"):
        harness.replay(task, task["baseline"], SEED, data_path, 4)


def test_divergence_is_an_outcome_with_its_step(
    task: dict[str, Any], data_path: Path, tmp_path: Path
) -> None:
    wild = {**task["baseline"], "lr": 100_000, "emb_lr_mult": 20_000_000, "softcap": 0, "emb_norm": False,
            "qk_norm": False, "warmup": 0, "head_lr_mult": 20_000_000}  # fmt: skip
    found = [harness.train(task, wild, 1, data_path, tmp_path) for _ in range(2)]
    assert found[0]["status"] == "crashed"
    assert found[0]["error"] == found[1]["error"]
    assert f"at step {found[0]['step']}" in found[0]["error"]
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_stop_between_steps_is_not_swallowed(task: dict[str, Any], data_path: Path, tmp_path: Path) -> None:
    def each(step: int, _steps: int, _loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harness.train(task, task["baseline"], 1, data_path, tmp_path, each=each)


def test_too_much_cpu_time_is_a_crash(task: dict[str, Any]) -> None:
    limit = CpuLimit(1)
    limit.started_s -= 2
    with pytest.raises(Crashed, match="more than 1 CPU seconds at step 7"):
        limit.check(7)


def test_steps_follow_from_task_and_recipe_alone(task: dict[str, Any], run: dict[str, Any]) -> None:
    known = harness.steps(task, task["baseline"])
    assert known["steps"] == run["steps"]
    assert known["params_count"] == run["params_count"]
    tiny = harness.steps({**task, "floor_flops_per_step": 50_000_000}, task["baseline"])
    assert tiny["flops_per_step"] == 50_000_000
    with pytest.raises(RecipeError, match="takes at most 100"):
        plan({**task, "params_max": 100}, task["baseline"])
    with pytest.raises(RecipeError, match="at least 4 are needed"):
        plan({**task, "budget_flops": 10_000_000}, task["baseline"])
    with pytest.raises(tasks.TaskError, match="segments"):
        plan({**task, "segments": 0}, task["baseline"])


def test_attention_is_counted() -> None:
    """A forward pass by hand: four matrices a block, attention's two products, and the head."""
    recipe = tasks.spec("pico")["baseline"] | {"depth": 1, "width": 32, "heads": 2, "mlp_ratio": 4_000_000}
    model = Gpt(recipe, 1_024, 64)
    model.initialise(0)
    b, t, c, hidden = 2, 64, 32, 128
    by_hand = 2 * b * t * (4 * c * c + 2 * c * hidden + c * 1_024) + 4 * b * t * t * c
    with torch.no_grad():
        assert count_flops(lambda: model(torch.zeros((b, t), dtype=torch.int64))) == by_hand


def test_initial_weights_have_the_spread_they_are_asked_for() -> None:
    drawn = random.bell(7, 3, (400, 500), 0.05)
    assert drawn.dtype == np.float32
    assert float(drawn.std()) == pytest.approx(0.05, rel=0.01)
    assert float(abs(drawn.mean())) < 0.001
    assert not np.array_equal(drawn, random.bell(7, 4, (400, 500), 0.05))


def test_batches_depend_on_seed_and_step_only(task: dict[str, Any], data_path: Path) -> None:
    loaded = data.load(data_path)
    one, two = (Run(task, task["baseline"], seed, loaded, "cpu") for seed in (1, 2))
    late = one.batch(9)
    one.batch(3)
    assert torch.equal(one.batch(9), late)
    assert not torch.equal(two.batch(9), late)
    assert not torch.equal(one.batch(10), late)
