import math
import xml.etree.ElementTree as ET
from urllib.parse import unquote

from lirdrec_pyg import Dataset


def test_titles_and_images_show_the_factors() -> None:
    dataset = Dataset.from_path("synthetic")
    frame, latent = dataset.catalog.frame, dataset.graph["item"].latent
    assert frame["id"].equals(dataset.items.ids)
    turn = (latent[:, 1].atan2(latent[:, 0]) / (2 * math.pi) + 0.5).numpy()
    of_color = {color: turn[(frame["color"] == color).to_numpy()] for color in frame["color"].unique()}
    assert len(of_color) == 6
    assert all(abs(x.max() - x.min()) <= 1 / 6 for x in of_color.values())
    assert frame.group_by("size").len()["len"].to_list() == [250] * 4
    order = {"dotted": 0, "plain": 1, "striped": 2}
    rank = frame["pattern"].replace_strict(order).to_numpy()[latent[:, 2].argsort().numpy()]
    assert (rank[1:] >= rank[:-1]).all()
    for row in frame.head(100).iter_rows(named=True):
        assert (
            row["title"].lower() == f"{row['size']} {row['color']} {row['pattern']} {row['shape']} of {row['material']}"
        )
        kind, _, svg = row["image"].partition(",")
        assert kind == "data:image/svg+xml"
        assert ET.fromstring(unquote(svg)).tag.endswith("svg")
