"""Files of rows: JSON lines, JSON arrays, Parquet and folders of ``datasets``, read piece by piece, written whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from icto_gym.errors import ConfigError, DataError
from icto_gym.errors import require as _require
from icto_gym.files import atomic_open, iter_json_array
from trainers.exchange.options import BadField

READABLE = (".jsonl", ".json", ".parquet")
_BATCH = 256


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | BadField]]:
    """Yield (place, row) of a file, or of every file in a folder; the place reads ``"<file> record <n>"`` (from 1).

    A line that is no JSON, or a record that is no object, is yielded as the error that it is: whoever reads may go on.

    Raises:
        ConfigError: no such file, an ending that is not read, or a saved dataset of several splits.
        DataError: a file that cannot be read on, since nothing says where its next record begins.
    """
    if not path.exists():
        raise ConfigError(f"There is no file {path}.")
    for number, row in enumerate(_folder(path) if path.is_dir() else _file(path), start=1):
        place = f"{path} record {number}"
        if not isinstance(row, (dict, BadField)):
            row = BadField(f"is {type(row).__name__} ({row!r:.60}), expected an object")
        yield place, row


def _folder(path: Path) -> Iterator[Any]:
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        datasets = _require("datasets", extra="export")
        found = datasets.load_from_disk(str(path))
        if not isinstance(found, dict):
            return iter(found)
        if len(found) > 1:  # evaluation data among training data would be noticed by nobody
            raise ConfigError(f"{path} holds the splits {', '.join(found)}. Import one: {path / next(iter(found))}.")
        return (row for part in found.values() for row in part)
    files = sorted(file for file in path.rglob("*") if file.suffix in READABLE and not file.name.startswith("."))
    if not files:
        raise ConfigError(f"The folder {path} holds no {', '.join(READABLE)} and no saved dataset.")
    return (row for file in files for row in _file(file))


def _file(path: Path) -> Iterator[Any]:
    if path.suffix not in READABLE:
        raise ConfigError(f"{path}: files ending in {', '.join(READABLE)} are read.")
    readers = {".jsonl": _lines, ".json": iter_json_array, ".parquet": _parquet}
    return readers[path.suffix](path)  # type: ignore[operator]


def _lines(path: Path) -> Iterator[Any]:
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line.decode("utf-8-sig"), parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                torn = "" if line.endswith(b"\n") else "; the file ends within this record: fetch or write it again"
                yield BadField(f"line {number} is not valid JSON ({error}){torn}")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _parquet(path: Path) -> Iterator[Any]:
    arrow, parquet = _require("pyarrow", extra="export"), _require("pyarrow.parquet", extra="export")
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}).") from error


# ---- writing ----------------------------------------------------------------------------------
def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> int:
    """Write rows as the file's ending says; it appears under its name only when it is complete. Returns how many.

    Args:
        path: ends in .jsonl, .json or .parquet.
        rows: each with exactly these columns.
        columns: by name: ``"text"``, ``"texts"``, ``"messages"``, ``"turns"`` (from, value), ``"number"``,
            ``"numbers"``, ``"whole"``, ``"bool"``, ``"bools"``, ``"wholes"`` or ``"steps"``.
    """
    check_writable(path)
    if path.suffix == ".parquet":
        return _write_parquet(path, rows, columns)
    count = 0
    with atomic_open(path) as handle:
        array = path.suffix == ".json"
        handle.write("[" if array else "")
        for count, row in enumerate(rows, start=1):
            text = json.dumps(row, ensure_ascii=True, allow_nan=False)  # ASCII: any text survives
            handle.write(f"{',' if array and count > 1 else ''}\n{text}" if array else text + "\n")
        handle.write("\n]\n" if array else "")
    return count


def check_writable(path: Path) -> None:
    """Refuse an ending that is not written, and a folder."""
    if path.suffix not in READABLE:
        raise ConfigError(f"--out {path}: files ending in {', '.join(READABLE)} are written.")
    refuse_folder(path)


def refuse_folder(path: Path) -> None:
    """A file cannot take the place of a folder."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder. Name a file, such as {path / 'out.jsonl'}.")


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> int:
    arrow, parquet = _require("pyarrow", extra="export"), _require("pyarrow.parquet", extra="export")
    schema = arrow.schema([(name, _arrow_type(arrow, kind)) for name, kind in columns.items()])
    count, batch = 0, []
    with atomic_open(path, "wb") as handle, parquet.ParquetWriter(handle, schema) as writer:
        for count, row in enumerate(rows, start=1):
            _check_storable(row, columns, count)
            batch.append(row)
            if len(batch) == _BATCH:
                writer.write_batch(arrow.RecordBatch.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_batch(arrow.RecordBatch.from_pylist(batch, schema))
    return count


def _check_storable(row: Mapping[str, Any], columns: Mapping[str, str], number: int) -> None:
    """Refuse what JSON can hold and Parquet cannot.

    Raises:
        DataError: naming the record and the value.
    """
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"Record {number} holds half of a surrogate pair ({error.object[error.start]!r}), which Parquet "
            "cannot store. Write .jsonl instead."
        ) from error
    for name, kind in columns.items():
        if kind == "whole" and isinstance(row[name], int) and not -(2**63) <= row[name] < 2**63:
            raise DataError(
                f"Record {number} has the {name} {row[name]}, and Parquet's whole numbers have 64 bits. "
                "Write .jsonl instead."
            )


def _arrow_type(arrow: Any, kind: str) -> Any:
    text = arrow.string()
    plain = {"text": text, "number": arrow.float64(), "whole": arrow.int64(), "bool": arrow.bool_()}
    if kind in plain:
        return plain[kind]
    if kind in ("texts", "numbers", "wholes", "bools"):
        return arrow.list_(plain[kind[:-1]])
    inside = {
        "messages": [("role", text), ("content", text)],
        "turns": [("from", text), ("value", text)],
        "steps": [(name, text) for name in ("observation", "response", "thought", "action")]
        + [("reward", arrow.float64()), ("valid", arrow.bool_())],
    }
    return arrow.list_(arrow.struct(inside[kind]))
