import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import lirdrec


def test_info_counts(shop: Path) -> None:
    result = lirdrec("info", shop, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    expected = {"users": 40, "items": 30, "interactions": 320, "training": 240, "validation": 40, "test": 40}
    assert {name: facts[name] for name in expected} == expected
    assert facts["sparsity"] == pytest.approx(1 - 320 / (40 * 30))
    assert facts["training interactions per user"] == {"mean": 6.0, "median": 6, "max": 6}
    assert facts["training interactions per item"]["mean"] == 8.0
    assert facts["modalities"] == {
        "image": {"width": 12, "type": "float32", "missing": 0},
        "text": {"width": 7, "type": "float32", "missing": 0},
    }


def test_info_fits_the_terminal(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (80, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = lirdrec("info", shop).output.splitlines()
        assert max(map(len, lines)) <= columns
        shown = "".join(line[32:] for line in lines)
        assert str(shop / "shop.inter") in shown
        assert "mean 6, median 6, max 6" in " ".join("".join(lines).split())


def test_info_counts_cold_items(shop: Path) -> None:
    table = shop / "shop.inter"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(row for row in rows if row.split("\t")[1:] != ["7", "0"]))
    facts = json.loads(lirdrec("info", shop, "--json").output)
    assert facts["cold items"] == 1
    assert facts["test pairs with cold items"] == sum(row.split("\t")[1:] == ["7", "2"] for row in rows)
    assert "cold items" in lirdrec("info", shop).output


def counts(*arguments: object) -> tuple[dict[str, Any], str]:
    result = lirdrec("info", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_rows_that_count_are_chosen_by_a_column(shop: Path) -> None:
    rows = [row.split("\t")[:2] for row in (shop / "shop.inter").read_text().splitlines()[1:]]
    (shop / "shop.inter").unlink()
    table = [["user_id", "item_id", "stars", "price"], *([*row, n % 5 + 1, 9] for n, row in enumerate(rows))]
    (shop / "shop.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in table))
    facts, _ = counts(shop)
    assert (facts["interactions"], facts["columns not used"]) == (320, ["stars", "price"])
    facts, _ = counts(shop, "--min-rating", "stars >= 4")
    assert (facts["interactions"], facts["rows below min_rating"], facts["columns not used"]) == (128, 192, ["price"])


def test_odd_ids_are_named_on_the_error_stream(shop: Path) -> None:
    rows = [row.split("\t")[:2] for row in (shop / "shop.inter").read_text().splitlines()[1:]]
    (shop / "shop.inter").unlink()
    np.save(shop / "text_feat.npy", np.ones((31, 7), np.float32))
    np.save(shop / "image_feat.npy", np.ones((31, 7), np.float32))
    table = [("user_id", "item_id"), *((f"{user}.0", f" {int(item) + 1}") for user, item in rows)]
    (shop / "shop.csv").write_text("".join(",".join(row) + "\n" for row in table))
    facts, warned = counts(shop, "--strip-ids")
    assert (facts["users"], facts["items"]) == (40, 31)
    assert "40 of the 40 user IDs look rewritten, such as '0.0'" in warned
    assert "lowest item ID is 1" in warned
    assert "pass it as --item-ids" in warned


def test_a_catalog_without_usual_names_has_no_title(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "catalog.csv").write_text("item_id,product name\n0,lamp\n")
    facts, warned = counts(shop, "--items", tmp_path / "catalog.csv")
    assert (facts["catalog"]["title"], facts["catalog"]["picture"]) == (None, None)
    assert "(columns: 'item_id', 'product name'), so items are shown by their IDs. Pass --title if there is" in warned
