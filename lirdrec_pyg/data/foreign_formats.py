"""Formats that are not read as tables, recognized by their first bytes: messages can name them."""

from pathlib import Path

from lirdrec_pyg.errors import DataError

_SAVE, _UNPACK = "Save it as CSV (UTF-8) or Parquet", "Decompress it first"
JSON_LINES_ADVICE = "Write one object per line, as pandas' to_json(orient='records', lines=True) does"
_EXPORT = "Export its table as CSV (UTF-8)"
# First bytes, format, advice. The first that fits counts.
_FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive", "Unzip it first"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", _SAVE),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"BZh91AY&SY", "compressed by bzip2, not by gzip", _UNPACK),
    (b"\xfd7zXZ\x00", "compressed by xz, not by gzip", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd, not by gzip", _UNPACK),
    (b"\x04\x22\x4d\x18", "compressed by LZ4, not by gzip", _UNPACK),
    *((zlib, "compressed by zlib, not by gzip", _UNPACK) for zlib in (b"\x78\x01", b"\x78\x9c", b"\x78\xda")),
    (b"PAR1\x15", "a Parquet file", "Give it the suffix .parquet"),
    (b"ARROW1\x00\x00", "a Feather (Arrow) file", _SAVE),
    (b"Obj\x01", "an Avro file", _SAVE),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _SAVE),
    (b"\x93NUMPY", "a NumPy array", _SAVE),
    *((bytes([0x80, protocol]), "a Python pickle", _SAVE) for protocol in range(2, 6)),
    (b"SQLite format 3\x00", "an SQLite database", _EXPORT),
    *((spss, "an SPSS file", _SAVE) for spss in (b"$FL2", b"$FL3")),
    (b"<stata_dta>", "a Stata file", _SAVE),
    *((rdata, "an R data file", _SAVE) for rdata in (b"RDX2\n", b"RDX3\n", b"X\n\x00\x00\x00")),
    (b"%PDF-", "a PDF", _SAVE),
    *((utf16, "UTF-16 text", "Save it as UTF-8") for utf16 in (b"\xff\xfe", b"\xfe\xff")),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Run git lfs pull"),
)
_MARKUP = (b"<!doctype", b"<html", b"<table", b"<?xml")
# Members of a zip archive that tell what it is.
_MEMBERS = {
    b"xl/": "an Excel workbook",
    b"[Content_Types].xml": "an Excel workbook",
    b"opendocument.spreadsheet": "an OpenDocument spreadsheet",
}


def check_is_text(path: Path, head: bytes, is_json: bool) -> None:
    """Raise :class:`DataError` if ``head``, the first decompressed bytes of a table, shows that it is not text."""
    found = next(((kind, advice) for magic, kind, advice in _FORMATS if head.startswith(magic)), None)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if found and found[0] == "a zip archive":
        kind = next((kind for member, kind in _MEMBERS.items() if member in head), None)
        found = (kind, _SAVE) if kind else found
    elif head[257:262] == b"ustar":
        found = "a tar archive", "Unpack it first"
    elif start[:9].lower().startswith(_MARKUP):
        found = "a web page or XML", "Download the table itself, or save it as CSV (UTF-8)"
    elif start.startswith(b"[") and (is_json or start[1:].lstrip().startswith((b"{", b"["))):
        found = "one JSON array", JSON_LINES_ADVICE
    elif start.startswith(b'{"') and not is_json:
        found = "JSON", "Give it the suffix .jsonl if each line holds one object"
    elif not found and b"\0" in head.split(b"\n", 1)[0]:
        found = "a binary file", _SAVE
    if found:
        raise DataError(f"{path} is {found[0]}. {found[1]}.")
