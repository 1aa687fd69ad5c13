"""What the processes of one extraction tell each other through the one folder that all their machines see."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex


@dataclass(frozen=True, slots=True)
class Notes:
    """Files beside the shards of a store, with names like those that any killed process may leave behind."""

    folder: Path
    run: str = field(default_factory=lambda: token_hex(4))

    def stop(self) -> None:
        """Ask everybody to begin no further shard."""
        self._path("stop").touch()

    def stopped(self) -> bool:
        return self._path("stop").exists()

    def begin(self, shard: int) -> int:
        """Note an attempt at the shard; returns how many there were before, none of which was finished."""
        with self._path(f"{shard}").open("ab") as attempts:
            before = attempts.tell()
            attempts.write(b".")
        return before

    def end(self, shard: int) -> None:
        """Note that the shard is there."""
        self._path(f"{shard}").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all notes of this run."""
        for path in self.folder.glob(f".ray-{self.run}.*.tmp"):
            path.unlink(missing_ok=True)

    def _path(self, what: str) -> Path:
        return self.folder / f".ray-{self.run}.{what}.tmp"
