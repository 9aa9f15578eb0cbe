import json
from pathlib import Path

from commands import lirdrec


def test_info_counts(shop: Path) -> None:
    result = lirdrec("info", shop, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    expected = {"users": 40, "items": 30, "interactions": 320, "training": 240, "validation": 40, "test": 40}
    assert {name: facts[name] for name in expected} == expected
    assert facts["sparsity"] == "73.3333%"
    assert facts["modality image"] == "width 12, float32, missing for 0 items"


def test_info_counts_cold_items(shop: Path) -> None:
    table = shop / "shop.inter"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(row for row in rows if row.split("\t")[1:] != ["7", "0"]))
    facts = json.loads(lirdrec("info", shop, "--json").output)
    assert facts["cold items"] == 1
    assert facts["test pairs with cold items"] == sum(row.split("\t")[1:] == ["7", "2"] for row in rows)
    assert "cold items" in lirdrec("info", shop).output
