import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from lirdrec_pyg.data import ItemCatalog
from lirdrec_pyg.errors import RunError
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.export import export_lance

DOCUMENTED = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/guides/export.md").read_text(), re.DOTALL
)[1]


def test_documented_search_returns_the_recommendations(
    grown: Recommender, int_recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (source, user) in enumerate(((grown, "u3"), (int_recommender, 101))):
        catalog = ItemCatalog(pl.DataFrame({"id": source.items.ids, "name": "O'Neil", "stock": 1}), "name")
        recommender = replace(source, dataset=replace(source.dataset, catalog=catalog))
        rows = export_lance(recommender, Path("exports/lance"), overwrite=number > 0)
        assert rows["items"] == len(recommender.items)
        found: dict[str, Any] = {}
        exec(DOCUMENTED.replace("'u1'", f"{user!r}"), found)
        expected = recommender.recommend([user], columns=["name"])
        assert found["best"].select("id", "title").rows() == expected.select("item", "name").rows()
        np.testing.assert_allclose(1 - found["best"]["_distance"], expected["score"], atol=1e-5)
        assert found["best"].columns == ["id", "vector", "title", "stock", "_distance"]


def test_an_open_table_stays_as_it_was(recommender: Recommender, int_recommender: Recommender, tmp_path: Path) -> None:
    import lancedb  # takes seconds

    export_lance(recommender, tmp_path)
    table = lancedb.connect(tmp_path).open_table("items")
    with pytest.raises(RunError, match=r"has a table 'users'.*`overwrite=True`"):
        export_lance(int_recommender, tmp_path)
    export_lance(int_recommender, tmp_path, overwrite=True)
    assert table.to_arrow()["id"].to_pylist() == recommender.items.ids.to_list()
    assert lancedb.connect(tmp_path).open_table("items").count_rows() == len(int_recommender.items)


def test_a_run_and_a_file_are_never_overwritten(recommender: Recommender, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    assert recommender.path is not None
    for path, named in ((tmp_path / "file", "is a file"), (recommender.path, "folder of a run")):
        with pytest.raises(RunError, match=named):
            export_lance(recommender, path, overwrite=True)
    assert (tmp_path / "file").read_text() == "precious"
