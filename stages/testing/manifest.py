"""What every kind of manifest must guarantee."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from gdist.pipeline.errors import ManifestError
from gdist.pipeline.manifest.schema import COLUMNS, OPTIONAL
from gdist.pipeline.manifest.sources import SOURCES, Options, Source
from gdist.pipeline.manifest.sources.base import ManifestRow
from gdist.pipeline.manifest.table import Manifest, build
from gdist.pipeline.storage.paths import is_uri
from gdist.stages.testing.suite import Suite, refused


class ManifestSuite(Suite):
    """A kind of manifest recognizes its files by content, and yields one row per utterance, always in one order.

    Attributes:
        source: the kind, or its class, which can be instantiated without arguments.
        expected: the rows of what :meth:`write` writes, in order, with paths relative to its folder. Columns that are
            left out are not checked.
    """

    source: ClassVar[Source | type[Source]]
    expected: ClassVar[Sequence[Mapping[str, Any]]]

    def write(self, folder: Path) -> Path:
        """Write a small example of this kind below ``folder``; its audio need not exist.

        Returns:
            the file or folder to pass to ``gdist manifest build``.
        """
        raise NotImplementedError(f"{type(self).__name__}.write must write a small example of its kind")

    @property
    def kind(self) -> Source:
        return self.source() if isinstance(self.source, type) else self.source

    def written(self, tmp_path: Path) -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        return self.write(folder.resolve())

    def test_gdist_takes_it_and_it_says_what_it_is(self, tmp_path: Path) -> None:
        kind = self.kind
        with SOURCES.lent(kind.name, self.source) as row:
            assert row.name == kind.name and row.summary, "--help prints its summary"
        assert kind.reads_both or self.written(tmp_path).is_dir() == kind.reads_folders

    def test_it_recognizes_its_own_files(self, tmp_path: Path) -> None:
        src = self.written(tmp_path)
        text = ["", ""] if src.is_dir() or self.is_binary(src) else src.read_text(encoding="utf-8").splitlines()
        assert self.kind.recognizes(src, text[0], [*text, ""][1])
        if not src.is_dir():
            diary = tmp_path / "diary.txt"
            diary.write_text("Dear diary,\nnothing happened today\n")
            assert not self.kind.recognizes(diary, "Dear diary,", "nothing happened today")

    def is_binary(self, src: Path) -> bool:
        return self.kind.binary and b"\0" in src.read_bytes()

    def rows(self, src: Path, tmp_path: Path) -> list[ManifestRow]:
        return list(self.kind.rows_with(src, Options(audio=tmp_path.resolve() / "m-audio")))

    def test_rows_are_as_a_manifest_needs_them(self, tmp_path: Path) -> None:
        src = self.written(tmp_path)
        rows = self.rows(src, tmp_path)
        assert rows == self.rows(src, tmp_path), "the order differs the second time"
        for row in rows:
            assert isinstance(row["id"], str) and isinstance(row["path"], str)
            assert is_uri(row["path"]) or Path(row["path"]).is_absolute(), row["path"]
            assert all(value is None or isinstance(value, str | int | float) for value in row.values())
            for name in {**COLUMNS, **OPTIONAL}.keys() - {"id", "path"}:
                assert row.get(name) is None or isinstance(row[name], int), f"{name} must be an int: {row[name]!r}"
        assert len({row["id"] for row in rows}) == len(rows), "ids are not unique"
        assert len(rows) == len(self.expected)
        for row, expected in zip(rows, self.expected, strict=True):
            placed = {**expected}
            if "path" in placed and not is_uri(placed["path"]):
                placed["path"] = os.path.normpath(tmp_path.resolve() / "data" / placed["path"])
            assert {name: row.get(name) for name in placed} == placed

    def test_a_manifest_is_built_from_it(self, tmp_path: Path) -> None:
        src, out = self.written(tmp_path), tmp_path / "m.parquet"
        with SOURCES.lent("tested", self.source):
            built = build(src, out, "tested")
        read = Manifest.read(out)
        assert read.fingerprint() == built.fingerprint() and list(read.table.column_names[:2]) == ["id", "path"]
        labels = {name for row in self.rows(src, tmp_path) for name in row} - {*COLUMNS, *OPTIONAL}
        assert set(read.label_columns) == labels

    def test_a_missing_source_is_a_manifest_error(self, tmp_path: Path) -> None:
        with refused(ManifestError, "."):
            list(self.kind.rows(tmp_path / "gone"))
