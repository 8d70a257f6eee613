"""A run's checkpoints: the newest few as `step-N.pth`, with `last.pth` and `best.pth` as links to two of them."""

import shutil
from pathlib import Path

from ssd_graph.checkpoints.checkpoint import Checkpoint, load_checkpoint
from ssd_graph.cli import InputError

_STEPS = f"step-{'[0-9]' * 8}.pth"
"""No more than digits, so that a user's step-final.pth is never taken for one of these."""


class RunFolder:
    """The files of one run; at every moment, `last.pth` is a whole checkpoint or does not exist yet."""

    def __init__(self, path: Path, keep: int = 3) -> None:
        """`keep` of the newest checkpoints stay, and the best one."""
        self.path, self.keep = path, keep
        self.last, self.best = path / "last.pth", path / "best.pth"

    def checkpoint_times(self) -> tuple[float, ...]:
        """Changes whenever a run writes a checkpoint."""
        return tuple(sorted(file.stat().st_mtime for file in self.path.glob("*.pth") if file.is_file()))

    def holds_run(self) -> bool:
        """Whether there are checkpoints that a new run would remove."""
        return self.last.is_file() or self.best.is_file() or bool(self._newest_first())

    def require_space(self, checkpoint_bytes: int) -> None:
        """Raise InputError if the disk has no room for the checkpoints that will be kept and one in the making."""
        there = sum(file.stat().st_size for file in self._newest_first())
        needed = (self.keep + 2) * checkpoint_bytes - there
        existing = next(f for f in (self.path.absolute(), *self.path.absolute().parents) if f.is_dir())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise InputError(
                f"{self.path} has {free / 1e9:.2f} GB free and checkpoints will take {needed / 1e9:.2f} GB; choose "
                "another --out, or a lower --keep"
            )

    def file_of(self, step: int) -> Path:
        """The checkpoint after `step` steps."""
        return self.path / f"step-{step:08}.pth"

    def mark_last(self, step: int) -> None:
        """Let `last.pth` be the checkpoint of `step`, which is written, and remove those that are too old."""
        _link(self.last, self.file_of(step))
        best = self.best.resolve()
        for file in self._newest_first()[self.keep :]:
            if file.resolve() != best:
                _remove(file)

    def mark_best(self, step: int) -> None:
        """Let `best.pth` be the checkpoint of `step`, which is written."""
        _link(self.best, self.file_of(step))

    def best_step(self) -> int:
        """The step of `best.pth`, which is a copy where there are no links; -1 if there is none."""
        if not self.best.is_file():
            return -1
        file = self.best.resolve()
        return int(file.stem.removeprefix("step-")) if self.best.is_symlink() else load_checkpoint(file).step

    def load_last(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole, if any, and a line for each damaged one that was passed over.

        Raises:
            InputError: there are checkpoints, and all are damaged.
        """
        files = [self.last.resolve()] if self.last.is_file() else []
        files += [file.resolve() for file in self._newest_first() if file.resolve() not in files]
        damaged: list[str] = []
        for file in files:
            try:
                return load_checkpoint(file), [f"{line}; continuing from {file.name}" for line in damaged]
            except InputError as error:
                damaged.append(str(error))
        if damaged:
            raise InputError(f"no checkpoint in {self.path} is whole ({damaged[0]}); start again in another --out")
        return None, [f"no checkpoint in {self.path}: the run begins at step 0"]

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`: a run goes on, or begins, from there."""
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink()
        newer = [file for file in self._newest_first() if file.name > self.file_of(step).name]
        if newer and self.file_of(step).is_file():
            _link(self.last, self.file_of(step))
        elif newer or not step:
            self.last.unlink(missing_ok=True)
        if self.best_step() > step:
            self.best.unlink()
        for file in newer:
            _remove(file)
        for sums in self.path.glob(f"{_STEPS}.sha256"):  # killed between a checkpoint's removal and its sum's
            if not sums.with_suffix("").is_file():
                sums.unlink()

    def _newest_first(self) -> list[Path]:
        return sorted(self.path.glob(_STEPS), reverse=True)


def _remove(checkpoint: Path) -> None:
    checkpoint.unlink()
    checkpoint.with_name(f"{checkpoint.name}.sha256").unlink(missing_ok=True)


def _link(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(target.name)
        except OSError:  # a disk without symbolic links
            shutil.copyfile(target, temporary)
        temporary.replace(link)
    except OSError as error:
        raise InputError(f"cannot write {link}: {error.strerror}; the checkpoint is {target}") from error
