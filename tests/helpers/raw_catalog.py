"""A shop's catalog as a user has it: a table, with image and audio files beside it."""

from pathlib import Path

import numpy as np
import polars as pl

COLORS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}


def write_catalog(folder: Path, count: int = 30, name: str = "catalog.csv") -> Path:
    """Write a catalog of ``count`` items, some with a missing or damaged file.

    Columns: ``sku``, ``title``, ``description`` (empty for every fifth), ``image`` (that of item-04 is damaged, that of
    item-05 missing) and ``audio`` (that of item-06 is damaged; item-07 has none).
    """
    import soundfile
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "media").mkdir(parents=True)
    rows = []
    for n in range(count):
        sku, color = f"item-{n:02}", list(COLORS)[n % len(COLORS)]
        image, audio = f"media/{sku}.{'jpg' if n % 2 else 'png'}", f"media/{sku}.{'flac' if n % 2 else 'wav'}"
        pixels = np.clip(np.array(COLORS[color]) + rng.normal(0, 20, (24 + n, 30, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / image)
        rate = 8000 if n % 2 else 11025
        wave = np.sin(2 * np.pi * (200 + 50 * (n % 3)) * np.arange(rate * (1 + n % 3) // 2) / rate)
        soundfile.write(folder / audio, 0.3 * wave, rate)
        rows.append(
            {
                "sku": sku,
                "title": f"A {color} chair, number {n}",
                "description": None if n % 5 == 0 else f"{'Very ' * (n % 7)}comfortable, in {color}",
                "image": image,
                "audio": None if sku == "item-07" else audio,
            }
        )
    (folder / rows[4]["image"]).write_bytes((folder / rows[6]["image"]).read_bytes()[:200])
    (folder / rows[5]["image"]).unlink()
    (folder / rows[6]["audio"]).write_text("not audio")
    frame, path = pl.DataFrame(rows), folder / name
    {
        ".csv": frame.write_csv,
        ".tsv": lambda file: frame.write_csv(file, separator="\t"),
        ".jsonl": frame.write_ndjson,
        ".parquet": frame.write_parquet,
    }[path.suffix](path)
    return path
