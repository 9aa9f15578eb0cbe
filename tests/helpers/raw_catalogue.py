"""A shop's catalogue as a user has it: a table, a folder of pictures and one of sounds."""

from pathlib import Path

import numpy as np
import polars as pl

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}
BROKEN_PICTURE, MISSING_PICTURE, BROKEN_SOUND, SILENT = "item-04", "item-05", "item-06", "item-07"


def write_catalogue(folder: Path, count: int = 30, name: str = "catalogue.csv") -> Path:
    """``count`` items with texts, pictures and sounds, of which some are broken or missing.

    Columns: ``sku``, ``title``, ``description`` (empty for every fifth), ``picture`` ``sound`` (``SILENT`` has none).
    """
    import soundfile
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "media").mkdir(parents=True)
    rows = []
    for n in range(count):
        sku, colour = f"item-{n:02}", list(COLOURS)[n % len(COLOURS)]
        picture, sound = f"media/{sku}.{'jpg' if n % 2 else 'png'}", f"media/{sku}.{'flac' if n % 2 else 'wav'}"
        pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 20, (24 + n, 30, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / picture)
        rate = 8000 if n % 2 else 11025
        wave = np.sin(2 * np.pi * (200 + 50 * (n % 3)) * np.arange(rate * (1 + n % 3) // 2) / rate)
        soundfile.write(folder / sound, 0.3 * wave, rate)
        rows.append(
            {
                "sku": sku,
                "title": f"A {colour} chair, number {n}",
                "description": None if n % 5 == 0 else f"{'Very ' * (n % 7)}comfortable, in {colour}",
                "picture": picture,
                "sound": None if sku == SILENT else sound,
            }
        )
    (folder / rows[4]["picture"]).write_bytes((folder / rows[6]["picture"]).read_bytes()[:200])
    (folder / rows[5]["picture"]).unlink()
    (folder / rows[6]["sound"]).write_text("no sound")
    frame, path = pl.DataFrame(rows), folder / name
    {
        ".csv": frame.write_csv,
        ".tsv": lambda file: frame.write_csv(file, separator="\t"),
        ".jsonl": frame.write_ndjson,
        ".parquet": frame.write_parquet,
    }[path.suffix](path)
    return path
