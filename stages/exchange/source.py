"""The folder that is imported: its files, by pattern, and what is said where one is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...features.errors import InputError
from ...features.tables import COMPRESSED

_LISTED = 12  # files of a folder that an error names


@dataclass(frozen=True, slots=True)
class Source:
    """A folder of a peer's data, and which set of it is meant where it holds several."""

    folder: Path
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            what = "a file; name its folder" if self.folder.exists() else "no such folder"
            raise FileNotFoundError(f"{self.folder}: {what}")

    def find(self, *patterns: str) -> list[Path]:
        """The files that any of the patterns names, compressed or not, sorted."""
        wanted = [pattern + suffix for pattern in patterns for suffix in ("", *COMPRESSED)]
        return sorted({path for glob in wanted for path in self.folder.glob(glob) if path.is_file()})

    def first(self, *patterns: str) -> Path | None:
        """The first file that is there, in the order of the patterns."""
        return next((found for pattern in patterns for found in self.find(pattern)), None)

    def need(self, what: str, *patterns: str) -> Path:
        """As `first`; FileNotFoundError that says what was looked for and what is there."""
        found = self.first(*patterns)
        if found is None:
            raise self.lacks(what, patterns)
        return found

    def lacks(self, what: str, patterns: Sequence[str]) -> FileNotFoundError:
        """The error for a folder without any file of these patterns."""
        names = sorted(path.name + "/" * path.is_dir() for path in self.folder.iterdir())
        listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" * (len(names) > _LISTED))
        return FileNotFoundError(
            f"{self.folder}: no {what}; looked for {' or '.join(patterns)}, found {listed or 'nothing'}"
        )

    def set_name(self, what: str, found: Sequence[str]) -> str:
        """The one of several sets that is meant: the one asked for, or the only one."""
        names = sorted(set(found))
        if self.name is not None:
            if self.name not in names:
                raise FileNotFoundError(
                    f"{self.folder}: no {what} '{self.name}'; there are {', '.join(names) or 'none'}"
                )
            return self.name
        if len(names) > 1:
            raise InputError(
                f"{self.folder} holds {len(names)} {what}s: {', '.join(names)}. Choose one with --name"
            )
        return names[0]

    def set_file(self, what: str, suffix: str) -> Path:
        """The file NAME<suffix> of the set that is meant."""
        found = {path.name.partition(suffix)[0]: path for path in self.find(f"*{suffix}")}
        if not found:
            raise self.lacks(what, [f"*{suffix}"])
        return found[self.set_name(what, list(found))]

    def pictures(self, *folders: str) -> dict[str, str]:
        """Name without extension -> path below the source, of the pictures in the first folder there is."""
        for folder in folders:
            if (self.folder / folder).is_dir():
                files = (self.folder / folder).rglob("*")
                kinds = (".jpg", ".jpeg", ".png", ".webp")
                found = sorted(path for path in files if path.suffix.lower() in kinds)
                return {path.stem: path.relative_to(self.folder).as_posix() for path in found}
        return {}
