"""Training into a checkpoint folder: what a killed run needs to go on, the states on the way, the result."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fairsims import engine
from fairsims.data.base import ImageDataset
from fairsims.data.latents import LatentSet
from fairsims.errors import Diverged, InputError
from fairsims.files import append_jsonl, atomic, read_jsonl, write_text
from fairsims.models.base import Trainable
from fairsims.models.folders import save_checkpoint
from fairsims.run import settle_settings
from fairsims.training.averages import average_file, save_average
from fairsims.training.config import TrainConfig
from fairsims.training.loop import Tick, check_fit, train


def train_folder(
    denoiser: Trainable,
    dataset: ImageDataset | LatentSet,
    config: TrainConfig,
    folder: Path,
    *,
    recipe: dict[str, Any],
    snapshots: Sequence[float] = (),
) -> Iterator[Tick]:
    """`train()` into a checkpoint folder: `stats.jsonl` on the way, the averaged weights at the end.

    When the budget passes a mark of `snapshots` (kimg, ascending), the averaged network is saved as a checkpoint of its
    own, `snapshot_folder(folder, mark)`. With a constant learning rate it equals what that budget alone would give.
    Killed at any moment, the same call goes on from the last saved state. A finished folder yields nothing. Under
    torchrun rank 0 alone writes, and the checkpoint is there for every process when the last tick has been taken.
    Raises ChangedSettings when the folder was begun with other settings, and Diverged when training failed: the
    averaged weights of the last saved state are then in `folder / "last-good"`.
    """
    if list(snapshots) != sorted(set(snapshots)) or not all(0 < k <= config.kimg for k in snapshots):
        raise ValueError(f"snapshots is {list(snapshots)}; expected ascending budgets up to {config.kimg} kimg")
    # Before anything is written: a folder left behind would refuse the corrected command.
    check_fit(denoiser, dataset, config)
    saved = config.saved_at()
    marks = {config.steps_at(kimg) for kimg in snapshots} | set(saved)
    settings = {**recipe, "train": config.as_dict(), "data_digest": dataset.digest}
    state_file, stats, main = folder / "state.pt", folder / "stats.jsonl", engine.is_main()
    with engine.main_first():
        settle_settings(folder / "training.json", settings | ({"snapshots": list(snapshots)} if snapshots else {}))
        finished = (folder / "config.json").exists()
        if main and finished:
            state_file.unlink(missing_ok=True)
    if finished:
        return
    state = _read_state(state_file, denoiser.device) if state_file.exists() else None
    done = state["step"] if state else 0
    if main:
        kept = [json.dumps(r) + "\n" for r in read_jsonl(stats) if r["step"] <= done]
        write_text(stats, "".join(kept))
    state_steps = max(1, round(config.state_kimg * 1000 / config.batch_size))
    made_by = {**recipe, "train": config.as_dict()}
    ema = denoiser
    try:
        for tick in train(denoiser, dataset, config, state=state, marks=marks):
            if main:
                append_jsonl(stats, tick.record)
                for kimg in (k for k in snapshots if config.steps_at(k) == tick.step):
                    save_checkpoint(
                        snapshot_folder(folder, kimg), tick.ema.saved(), recipe=made_by | {"snapshot_kimg": kimg}
                    )
                if tick.step in saved:
                    for std, average in zip(config.ema_stds, tick.averages, strict=True):
                        save_average(average_file(folder, tick.nimg, std), average.state_dict())
            if tick.step - done >= state_steps and tick.step < config.steps:
                if main:
                    _write_state(state_file, tick.state)
                done = tick.step
            ema = tick.ema
            yield tick
    except Diverged as e:
        raise Diverged(f"{e}; {_keep_last_good(folder, denoiser, made_by)}") from None
    if main:
        save_checkpoint(folder, ema.saved(), recipe=made_by)
        state_file.unlink(missing_ok=True)
    engine.barrier()


def snapshot_folder(folder: Path, kimg: float) -> Path:
    """Where `train_folder` keeps the state after so many kimg."""
    return folder / f"kimg-{kimg:09.3f}"


def _keep_last_good(folder: Path, denoiser: Trainable, recipe: dict[str, Any]) -> str:
    """Save the averaged weights of the last state as a checkpoint; returns what to do with it."""
    state_file = folder / "state.pt"
    if not state_file.exists():
        return "no state was saved before; train again into another folder"
    state = _read_state(state_file, denoiser.device)
    if engine.is_main():
        good = copy.deepcopy(denoiser)
        good.load_state_dict(state["ema"])
        save_checkpoint(folder / "last-good", good.saved(), recipe=recipe | {"step": state["step"]})
    return (
        f"the weights of step {state['step']} are kept in {folder / 'last-good'}: "
        "go on from them with --init into another folder"
    )


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with atomic(path) as temporary:
        # As bytes, so that a full disk is an OSError like everywhere else.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        temporary.write_bytes(buffer.getbuffer())


def _read_state(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = dict(torch.load(path, map_location=device, weights_only=True))
        state["watch"], state["scaler"]  # noqa: B018 - a state of an older version lacks them
        return state
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, TypeError, ValueError, KeyError) as e:
        reason = (str(e).splitlines() or [""])[0][:160]
        raise InputError(f"{path} is corrupt ({reason}); delete it to train again from the start") from None
