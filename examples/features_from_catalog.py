"""Encode a catalog of texts and images, train on the features, and recommend.

    python examples/features_from_catalog.py [TEXT_MODEL IMAGE_MODEL]

The catalog in raw_shop/ is generated: 30 chairs with a text and a drawn image each. By default, it is encoded by two
models with random weights that the script creates, so that nothing is downloaded. They only distinguish colors. For
your catalog, pass pretrained models such as sentence-transformers/all-MiniLM-L6-v2 and google/siglip-base-patch16-224.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch

from lirdrec_pyg import Dataset, LIRDRecConfig, TrainingConfig, fit
from lirdrec_pyg.errors import LIRDRecError
from lirdrec_pyg.features import catalog_sources, make_features
from lirdrec_pyg.features.config import FeaturesConfig

try:
    from PIL import Image, ImageDraw
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer, ViTConfig, ViTModel
    from transformers.utils import logging
except ImportError as error:
    sys.exit(f"{error}. Run pip install 'lirdrec-pyg[features]' first.")

COLORS = ["red", "green", "blue"]
WORDS = ["a", "chair", "with", "three", "four", "five", "legs", *COLORS]
SHOP = Path("raw_shop")


def generate_catalog() -> None:
    """Write 30 chairs in three colors with three to five legs, and clicks of users who each like one color."""
    rng = np.random.default_rng(0)
    (SHOP / "images").mkdir(parents=True, exist_ok=True)
    items = []
    for n in range(30):
        color, legs = COLORS[n % 3], 3 + n // 3 % 3
        image = Image.new("RGB", (64, 64), "white")
        draw = ImageDraw.Draw(image)
        draw.rectangle((8, 8 + n % 5, 56, 40), fill=color)
        for leg in range(legs):
            draw.rectangle((10 + leg * 40 // (legs - 1), 40, 14 + leg * 40 // (legs - 1), 60), fill=color)
        image.save(SHOP / "images" / f"chair-{n}.png")
        text = f"a {color} chair with {['three', 'four', 'five'][legs - 3]} legs"
        items.append({"sku": f"{color}-{n}", "title": text, "image": f"images/chair-{n}.png"})
    pl.DataFrame(items).write_csv(SHOP / "catalog.csv")
    liked = {c: [item["sku"] for item in items if item["sku"].startswith(c)] for c in COLORS}
    clicks = [(f"likes-{c}-{u}", item) for c in COLORS for u in range(20) for item in rng.choice(liked[c], 6, False)]
    pl.DataFrame(clicks, schema=["user_id", "item_id"], orient="row").write_csv(SHOP / "clicks.csv")


def create_models() -> list[str]:
    """Save encoders of texts and images in the format of the Hugging Face Hub."""
    torch.manual_seed(0)
    logging.disable_progress_bar()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    words = SHOP / "words"
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    BertModel(BertConfig(vocab_size=len(vocabulary), **size)).save_pretrained(words)
    BertTokenizer(vocab=vocabulary).save_pretrained(words)
    transformer = Transformer(str(words))
    text_model, image_model = SHOP / "text-model", SHOP / "image-model"
    SentenceTransformer(modules=[transformer, Pooling(32)]).save(str(text_model))
    ViTModel(ViTConfig(image_size=32, patch_size=8, **size)).save_pretrained(image_model)
    (image_model / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}'
    )
    return [str(text_model), str(image_model)]


if len(sys.argv) not in (1, 3):
    sys.exit(__doc__)
generate_catalog()
text_model, image_model = sys.argv[1:] or create_models()

config = FeaturesConfig(
    id_col="sku", text_cols="title", image_col="image", text_model=text_model, image_model=image_model
)
try:
    records = make_features(catalog_sources(SHOP / "catalog.csv", config), SHOP / "features")
except LIRDRecError as error:
    sys.exit(str(error))
for modality, record in records.items():
    print(f"{modality}: {record['rows']} vectors of width {record['width']} by {record['encoder']['model']}")

clicks, catalog = (pl.read_csv(SHOP / name) for name in ("clicks.csv", "catalog.csv"))
features = {
    m: pl.read_parquet(SHOP / "features" / f"{m}_feat.parquet", columns=["item_id", "features"]) for m in records
}
dataset = Dataset.from_frames(clicks, features, catalog.rename({"sku": "item_id"}))
recommender = fit(dataset, LIRDRecConfig(embedding_dim=16), TrainingConfig(epochs=40, lr=1e-2, batch_size=64))
print("test Recall@5:", recommender.metrics["test"]["recall@5"])
for color in COLORS:
    best = recommender.recommend([f"likes-{color}-0"], k=3)["item"]
    print(f"likes-{color}-0 may like {', '.join(best)}")
