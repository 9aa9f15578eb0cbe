"""From a catalogue of texts and pictures to recommendations.

    python examples/features_from_catalogue.py [TEXT_MODEL IMAGE_MODEL]

The catalogue is made up in raw_shop/: 30 chairs with a text and a drawn picture each. Without arguments it is encoded
by two models of random weights that the script makes itself, since nothing is downloaded here. They tell colours
apart, and no more: name real ones, such as sentence-transformers/all-MiniLM-L6-v2 and
google/siglip-base-patch16-224, for a catalogue of yours.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image, ImageDraw
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer, ViTConfig, ViTModel
from transformers.utils import logging

from lirdrec_pyg.config import DataConfig, FeaturesConfig, LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import find_features, read_data
from lirdrec_pyg.features import catalogue_sources, make_features
from lirdrec_pyg.serving import Recommender
from lirdrec_pyg.training import fit

COLOURS = ["red", "green", "blue"]
WORDS = ["a", "chair", "with", "three", "four", "five", "legs", *COLOURS]
SHOP = Path("raw_shop")


def make_up_a_catalogue() -> None:
    """30 chairs in three colours, with three to five legs, and clicks of users who like one colour each."""
    rng = np.random.default_rng(0)
    (SHOP / "pictures").mkdir(parents=True, exist_ok=True)
    items = []
    for n in range(30):
        colour, legs = COLOURS[n % 3], 3 + n // 3 % 3
        picture = Image.new("RGB", (64, 64), "white")
        draw = ImageDraw.Draw(picture)
        draw.rectangle((8, 8 + n % 5, 56, 40), fill=colour)
        for leg in range(legs):
            draw.rectangle((10 + leg * 40 // (legs - 1), 40, 14 + leg * 40 // (legs - 1), 60), fill=colour)
        picture.save(SHOP / "pictures" / f"chair-{n}.png")
        text = f"a {colour} chair with {['three', 'four', 'five'][legs - 3]} legs"
        items.append({"sku": f"{colour}-{n}", "title": text, "picture": f"pictures/chair-{n}.png"})
    pl.DataFrame(items).write_csv(SHOP / "catalogue.csv")
    liked = {c: [item["sku"] for item in items if item["sku"].startswith(c)] for c in COLOURS}
    clicks = [(f"likes-{c}-{u}", item) for c in COLOURS for u in range(20) for item in rng.choice(liked[c], 6, False)]
    pl.DataFrame(clicks, schema=["user_id", "item_id"], orient="row").write_csv(SHOP / "clicks.csv")


def make_up_models() -> list[str]:
    """Encoders of texts and of pictures, saved as any model of the hub is."""
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


make_up_a_catalogue()
text_model, image_model = sys.argv[1:] or make_up_models()

config = FeaturesConfig(
    id_col="sku", text_cols="title", image_col="picture", text_model=text_model, image_model=image_model
)
records = make_features(catalogue_sources(SHOP / "catalogue.csv", config), SHOP / "features")
for modality, record in records.items():
    print(f"{modality}: {record['rows']} vectors of width {record['width']} by {record['encoder']['model']}")

features = {modality: str(file) for modality, file in find_features(SHOP / "features").items()}
data = DataConfig(data=str(SHOP / "clicks.csv"), features=features)
training = TrainingConfig(epochs=40, lr=1e-2, batch_size=64)
metrics = fit(read_data(data), "runs/raw-shop", data, LIRDRecConfig(embedding_dim=16), training, overwrite=True)
print("test Recall@5:", metrics["test"]["recall@5"])

recommender = Recommender.load("runs/raw-shop")
for colour in COLOURS:
    best = recommender.recommend([f"likes-{colour}-0"], k=3)["item"]
    print(f"likes-{colour}-0 may like {', '.join(best)}")
