"""Checkpoints: written atomically, verified, bound to their run, and pruned."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import DATA, PROGRAMS
from in_process import NoCourier, difference, held_run, last_checkpoint, train_until
from runback.commands.resume import restore_into
from runback.config import TrainConfig
from runback.errors import CheckpointError, ModelError
from runback.stateful import snapshot
from runback.storage import atomic as files
from runback.storage.checkpoint_writer import CheckpointWriter
from runback.storage.checkpoints import (
    CheckpointKey,
    Manifest,
    checkpoint_name,
    load_checkpoint,
    local_positions,
    manifest_name,
    verify,
    write_checkpoint,
)
from runback.storage.paths import RunDir
from runback.storage.retention import Retention
from runback.tracking.messages import ListArtifacts
from runback.training.setup import TrainingSetup, prepare

OWNER = CheckpointKey("a-run", "a-configuration")
CONFIG = TrainConfig(
    data=str(DATA / "non_linear.csv"), epochs=6, checkpoint_every=2, checkpoint_minutes=0.0
)


def a_state(epoch: int = 1, batch: int = 0) -> dict[str, Any]:
    weights = {"w": torch.full((64,), float(epoch))}
    return {"epoch": epoch, "batch": batch, "model_state_dict": weights}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with checkpoints after epochs 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("home") / "run"
    train_until(folder, CONFIG)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> RunDir:
    """A copy of `trained`, to be damaged."""
    shutil.copytree(trained, tmp_path / "run")
    return RunDir(tmp_path / "run")


class Artifacts(NoCourier):
    """Stands for `CourierClient`: the run's checkpoint artifacts are the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, question: Any) -> Any:
        if isinstance(question, ListArtifacts):
            return [file.name for file in self.folder.iterdir()]
        Path(question.folder).mkdir(parents=True, exist_ok=True)
        return shutil.copy(self.folder / Path(question.path).name, question.folder)


def restored(setup: TrainingSetup, folder: RunDir, courier: Any = None) -> Any:
    """Restores the run in a folder; the position it continues from, None without a checkpoint."""
    run = held_run(folder.path, setup, courier=courier)
    return setup.state.position if restore_into(run, setup) else None


def restored_position(folder: RunDir, courier: Any = None, config: TrainConfig = CONFIG) -> Any:
    return restored(prepare(config), folder, courier)


def damage(rng: random.Random, file: Path, *, truncate: bool) -> None:
    content = bytearray(file.read_bytes())
    if truncate:
        content = content[: rng.randrange(len(content))]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


@pytest.mark.parametrize(("truncate", "times"), [(False, 200), (True, 100)])
def test_no_damaged_checkpoint_is_loaded(
    folder: RunDir, capsys: pytest.CaptureFixture[str], truncate: bool, times: int
) -> None:
    rng, work = random.Random(truncate), prepare(CONFIG)
    newest = folder.checkpoints / checkpoint_name(6)
    whole = newest.read_bytes()
    for _ in range(times):
        damage(rng, newest, truncate=truncate)
        found = restored(work, folder)
        newest.write_bytes(whole)
        assert found == (4, 0)
        assert f"warning: skipped {newest.with_suffix('')}" in capsys.readouterr().err
    assert restored_position(folder) == (6, 0)


def refused_or_harmless(path: Path, content: bytes, intact: Manifest, key: CheckpointKey) -> bool:
    """Whether a manifest is refused; if it is not, all that decides a resume must be intact."""
    path.write_bytes(content)
    try:
        manifest = Manifest.read(path)
        manifest.check_key(key)
        load_checkpoint(path.parent, manifest)
    except CheckpointError:
        return True
    assert dataclasses.replace(manifest, versions={}) == dataclasses.replace(intact, versions={})
    return False


def test_a_flipped_bit_in_a_manifest_is_refused_or_harmless(tmp_path: Path) -> None:
    """Every bit; those that go unnoticed lie in `versions`, which decides nothing."""
    intact = write_checkpoint(tmp_path, a_state(7), OWNER, {"torch": "2.10.0"})
    path, whole = tmp_path / intact.manifest_file, intact.as_bytes()
    start, end = whole.index(b'"versions"') + len(b'"versions"'), len(whole)
    for bit in range(len(whole) * 8):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        refused = refused_or_harmless(path, bytes(content), intact, OWNER)
        assert refused or start <= bit // 8 < end, (bit, bytes(content))


def test_a_truncated_manifest_is_refused_or_harmless(tmp_path: Path) -> None:
    """Every length; only the line break at the end may be missing."""
    intact = write_checkpoint(tmp_path, a_state(7), OWNER, {"torch": "2.10.0"})
    path, whole = tmp_path / intact.manifest_file, intact.as_bytes()
    for length in range(len(whole)):
        refused = refused_or_harmless(path, whole[:length], intact, OWNER)
        assert refused or whole[length:] == b"\n"


@pytest.mark.parametrize(("truncate", "times"), [(False, 200), (True, 100)])
def test_a_damaged_manifest_never_leads_to_a_wrong_resume(
    folder: RunDir, trained: Path, truncate: bool, times: int
) -> None:
    """It is skipped, or what it resumes is what the intact one resumes."""
    rng, work = random.Random(truncate), prepare(CONFIG)
    newest, whole = folder.checkpoints / manifest_name(checkpoint_name(6)), last_checkpoint(trained)
    intact, states = newest.read_bytes(), []
    for _ in range(times):
        damage(rng, newest, truncate=truncate)
        found = restored(work, folder)
        newest.write_bytes(intact)
        states.append(found.epoch)
        if found.epoch == 6:
            kept = work.state.kept().items()
            state = {f"{name}_state_dict": snapshot(target) for name, target in kept}
            assert difference(state, {key: whole[key] for key in state}) == ""
    assert set(states) <= {4, 6} and states.count(4) > times / 2


def test_a_damaged_checkpoint_comes_from_the_artifacts(folder: RunDir, tmp_path: Path) -> None:
    remote = tmp_path / "artifacts"
    shutil.copytree(folder.checkpoints, remote)
    newest = folder.checkpoints / checkpoint_name(6)
    damage(random.Random(1), newest, truncate=False)
    assert restored_position(folder, Artifacts(remote)) == (6, 0)
    assert newest.read_bytes() == (remote / newest.name).read_bytes(), "the good copy comes back"
    for copy in (newest, remote / newest.name):
        damage(random.Random(2), copy, truncate=False)
    assert restored_position(folder, Artifacts(remote)) == (4, 0)


def test_missing_checkpoints_come_from_the_artifacts(folder: RunDir, tmp_path: Path) -> None:
    here = RunDir(tmp_path / "elsewhere" / "run")
    assert restored_position(here, Artifacts(folder.checkpoints)) == (6, 0)
    assert local_positions(here.checkpoints) == [(6, 0)]
    assert not here.fetched.exists()


def test_checkpoints_of_another_run_are_refused(
    folder: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other-run"
    shutil.copytree(folder.path, other)
    assert restored_position(RunDir(other)) is None
    assert "belongs to run run" in capsys.readouterr().err


def test_checkpoints_of_another_configuration_are_refused(
    folder: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = dataclasses.replace(CONFIG, seed=1)
    assert restored_position(folder, config=changed) is None
    assert "another configuration" in capsys.readouterr().err


def test_a_checkpoint_needs_only_its_position(tmp_path: Path) -> None:
    """What else it holds is for the caller to say."""
    manifest = write_checkpoint(tmp_path, {"epoch": 7, "batch": 0}, OWNER, {})
    assert load_checkpoint(tmp_path, manifest) == {"epoch": 7, "batch": 0}


def test_weights_of_another_shape_are_refused(folder: RunDir) -> None:
    wider = prepare(dataclasses.replace(CONFIG, model_args={"degree": 3}))
    odd = dataclasses.replace(wider, config=CONFIG)
    with pytest.raises(
        ModelError, match=r"weight.* is stored as torch.float32 \[1, 2\].* \[1, 3\]"
    ):
        restored(odd, folder)


def test_weights_of_another_dtype_are_refused(folder: RunDir) -> None:
    double = prepare(CONFIG)
    double.state.model.double()
    with pytest.raises(ModelError, match=r"torch.float32 .*torch.float64"):
        restored(double, folder)


def forged(folder: Path, **fields: Any) -> Path:
    """A manifest that is whole JSON and wrong."""
    manifest = write_checkpoint(folder, a_state(7), OWNER, {})
    path = folder / manifest.manifest_file
    path.write_bytes(dataclasses.replace(manifest, **fields).as_bytes())
    return path


@pytest.mark.parametrize(
    "fields",
    [
        {"file": "../../checkpoint-000007.pt"},
        {"file": "/etc/passwd"},
        {"file": "checkpoint-000008.pt", "epoch": 8},
        {"file": ["checkpoint-000007.pt"]},
        {"epoch": 10**400},
        {"epoch": -7},
        {"epoch": "7"},
        {"epoch": True},
        {"epoch": 7.0},
        {"batch": None},
        {"size": -1},
    ],
)
def test_a_manifest_with_wrong_fields_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = forged(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=r"checkpoint-000007\.json"):
        Manifest.read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 50_000, b"1" * 10_000, b'{"file": 1}' * 9_000],
)
def test_a_manifest_that_does_not_parse_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint-000007.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint-000007\.json"):
        Manifest.read(path)


def test_a_wrong_size_or_digest_is_damage(tmp_path: Path) -> None:
    for fields in ({"size": 10**30}, {"sha256": 5}, {"sha256": None}):
        manifest = Manifest.read(forged(tmp_path, **fields))
        with pytest.raises(CheckpointError, match="damaged"):
            verify(tmp_path, manifest)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch exploded",)


def disguised(folder: Path, content: bytes) -> Manifest:
    """A checkpoint file of any content, with a manifest of its size and digest."""
    manifest = write_checkpoint(folder, a_state(7), OWNER, {})
    (folder / manifest.file).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(manifest, size=len(content), sha256=digest)


def test_a_hostile_checkpoint_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**a_state(7), "extra": Bomb()}, tmp_path / "bomb")
    for content in ((tmp_path / "bomb").read_bytes(), pickle.dumps(Bomb()), b"", b"PK\x03\x04"):
        manifest = disguised(tmp_path, content)
        with pytest.raises(CheckpointError, match=r"checkpoint-000007.pt: refused"):
            load_checkpoint(tmp_path, manifest)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("state", [a_state(8), [1, 2], {"batch": 0}, {"epoch": 7}])
def test_a_checkpoint_without_its_entries_is_refused(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "odd")
    manifest = disguised(tmp_path, (tmp_path / "odd").read_bytes())
    with pytest.raises(CheckpointError, match=r"checkpoint-000007.pt"):
        load_checkpoint(tmp_path, manifest)


def test_an_incomplete_training_state_is_skipped(
    folder: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = CheckpointKey("run", CONFIG.identity())
    whole = last_checkpoint(folder.path)
    for missing in (
        "model_state_dict",
        "optimizer_state_dict",
        "generators",
        "progress_state_dict",
    ):
        state = {**{k: v for k, v in whole.items() if k != missing}, "epoch": 8}
        write_checkpoint(folder.checkpoints, state, owner, {})
        assert restored_position(folder) == (6, 0)
        assert "skipped checkpoint-000008.pt: incomplete" in capsys.readouterr().err


def test_unloadable_extra_state_is_refused() -> None:
    config = dataclasses.replace(CONFIG, model=f"{PROGRAMS}/odd_state.py:Odd")
    with pytest.raises(ModelError, match=r"'_extra_state' .* cannot be checkpointed"):
        prepare(config)


# Writing


def test_a_write_syncs_file_and_folder_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write, fsync, rename, fsync of the folder: first the checkpoint, then its manifest."""
    seen: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(handle: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        seen.append(f"fsync {name.split('.tmp')[0].removesuffix(f'.{os.getpid()}')}")
        fsync(handle)

    def noted_replace(self: Path, target: Path) -> Path:
        seen.append(f"rename {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_checkpoint(tmp_path, a_state(3), OWNER, {})
    assert seen == [
        "fsync .checkpoint-000003.pt", "rename checkpoint-000003.pt", f"fsync {tmp_path.name}",
        "fsync .checkpoint-000003.json", "rename checkpoint-000003.json", f"fsync {tmp_path.name}",
    ]  # fmt: skip


def test_new_folders_are_synced_into_their_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"}


def test_a_wrongly_written_file_gets_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runback.storage.checkpoints.sha256_of", lambda _: "0" * 64)
    with pytest.raises(CheckpointError, match="damaged"):
        write_checkpoint(tmp_path, a_state(3), OWNER, {})
    assert local_positions(tmp_path) == []


def write_for_ever(folder: Path, first: int) -> None:
    """Writes checkpoints on the writer's thread until the process is killed."""
    weights = torch.ones(100_000)
    writer = CheckpointWriter(lambda state: write_checkpoint(folder, state, OWNER, {}) and None)
    for epoch in range(first, first + 10_000):
        state = {"epoch": epoch, "batch": 0, "model_state_dict": {"w": weights * epoch}}
        writer.submit(state)


def kills_while_writing(folder: Path, times: int) -> int:
    """Kills a writing process again and again; returns how many temp files that left."""
    rng, left = random.Random(0), 0
    folder.mkdir()
    for _ in range(times):
        known = local_positions(folder)
        child = os.fork()
        if child == 0:
            write_for_ever(folder, known[-1][0] + 1 if known else 1)
            os._exit(0)
        time.sleep(rng.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left += len(list(folder.glob(".*.tmp")))
        files.remove_leftovers(folder)
        assert not list(folder.glob(".*"))
        for position in local_positions(folder):
            manifest = Manifest.read(folder / manifest_name(checkpoint_name(*position)))
            state = load_checkpoint(folder, manifest)
            assert bool((state["model_state_dict"]["w"] == position[0]).all())
        assert local_positions(folder)[: len(known)] == known, "an older one has gone"
        for position in known[:-2]:  # the disk is small
            (folder / checkpoint_name(*position)).unlink()
            (folder / manifest_name(checkpoint_name(*position))).unlink()
    return left


def test_kills_while_writing_leave_only_whole_checkpoints(tmp_path: Path) -> None:
    assert kills_while_writing(tmp_path / "c", 25) > 0, "no kill fell into a write"


@pytest.mark.chaos
def test_many_kills_while_writing_leave_only_whole_checkpoints(tmp_path: Path) -> None:
    assert kills_while_writing(tmp_path / "c", 300) > 0


def test_temporary_files_are_removed_at_the_next_start(folder: RunDir) -> None:
    for name in (".checkpoint-000007.pt.123.tmp", ".checkpoint-000007.json.123.tmp"):
        (folder.checkpoints / name).write_bytes(b"half")
    train_until(folder.path, dataclasses.replace(CONFIG, epochs=7))
    assert not list(folder.checkpoints.glob(".*"))


def test_a_failed_write_is_raised_by_the_next_call() -> None:
    def fail(_: dict[str, Any]) -> None:
        raise CheckpointError("no room")

    writer = CheckpointWriter(fail)
    writer.submit(a_state())
    with pytest.raises(CheckpointError, match="no room"):
        writer.wait()
    writer.submit(a_state())
    with pytest.raises(CheckpointError, match="no room"):
        writer.submit(a_state())
    writer.close()


# Retention


def retained(folder: Path, keep: int, written: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The positions that are left after writing checkpoints at `written`, in order."""
    retention = Retention(folder, OWNER, keep)
    for epoch, batch in written:
        retention.add(write_checkpoint(folder, a_state(epoch, batch), OWNER, {}))
    return local_positions(folder)


@pytest.mark.parametrize(
    ("keep", "left"), [(0, [1, 2, 3, 4, 5]), (1, [4, 5]), (2, [4, 5]), (3, [3, 4, 5])]
)
def test_keep_checkpoints_keeps_the_newest(tmp_path: Path, keep: int, left: list[int]) -> None:
    assert retained(tmp_path, keep, [(e, 0) for e in range(1, 6)]) == [(e, 0) for e in left]
    assert len(list(tmp_path.glob("*.pt"))) == len(left)


def test_checkpoints_inside_epochs_are_pruned(tmp_path: Path) -> None:
    written = [(1, 0), (1, 5), (1, 9), (2, 0), (2, 3)]
    assert retained(tmp_path, 0, written) == [(1, 0), (2, 0), (2, 3)]


def test_damaged_checkpoints_do_not_count(tmp_path: Path) -> None:
    assert retained(tmp_path, 2, [(1, 0), (2, 0)]) == [(1, 0), (2, 0)]
    damage(random.Random(0), tmp_path / checkpoint_name(2), truncate=False)
    retention = Retention(tmp_path, OWNER, 2)
    assert retention.add(write_checkpoint(tmp_path, a_state(3), OWNER, {})) == []
    assert local_positions(tmp_path) == [(1, 0), (2, 0), (3, 0)]


def test_checkpoints_of_another_run_do_not_count(tmp_path: Path) -> None:
    retained(tmp_path, 2, [(2, 0), (3, 0)])
    write_checkpoint(tmp_path, a_state(9), CheckpointKey("another", "a-configuration"), {})
    retention = Retention(tmp_path, OWNER, 2)
    retention.add(write_checkpoint(tmp_path, a_state(4), OWNER, {}))
    assert {(3, 0), (4, 0)} <= set(local_positions(tmp_path))


def test_retention_without_pruning_reads_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retained(tmp_path, 0, [(e, 0) for e in range(1, 6)])
    retention, manifest = (
        Retention(tmp_path, OWNER, 0),
        write_checkpoint(tmp_path, a_state(6), OWNER, {}),
    )
    monkeypatch.setattr(Manifest, "read", None)
    assert retention.add(manifest) == []


def test_every_checkpoint_holds_the_best_weights_once(tmp_path: Path) -> None:
    """They share storage with equal current weights, and survive resumes and pruning."""
    diverging = dataclasses.replace(
        CONFIG, model="linear", lr=0.02, momentum=0.999, checkpoint_every=1, keep_checkpoints=2
    )
    run = tmp_path / "run"
    train_until(run, dataclasses.replace(diverging, epochs=1))
    first = last_checkpoint(run)
    best, current = (
        first["progress_state_dict"]["best"]["model_state_dict"],
        first["model_state_dict"],
    )
    assert all(best[k].data_ptr() == current[k].data_ptr() for k in best)
    for epochs in range(2, 12):
        train_until(run, dataclasses.replace(diverging, epochs=epochs))
    train_until(tmp_path / "whole", dataclasses.replace(diverging, epochs=11))
    found = last_checkpoint(run)["progress_state_dict"]["best"]
    assert (
        difference(found, last_checkpoint(tmp_path / "whole")["progress_state_dict"]["best"]) == ""
    )
    assert found["epoch"] < 10, "the case is not what this test is about"
    assert difference(found["model_state_dict"], last_checkpoint(run)["model_state_dict"]) != ""
