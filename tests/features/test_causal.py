from pathlib import Path

import pytest
import torch
from tiny_language_models import save_gpt2, save_llama
from transformers import AutoModel, AutoTokenizer

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features.causal import CausalEncoder, CausalPooling

TEXTS = ["a red chair", "two small round blue shoe of leather with four legs", "glass", "a big lamp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_llama(root / "llama")
    save_llama(root / "no-pad", pad_token=None, padding_side="right")
    save_gpt2(root / "gpt2")
    return root


@torch.no_grad()
def alone(model: Path, text: str, pooling: str) -> torch.Tensor:
    """The formula, for a text by itself."""
    tokens = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")
    hidden = AutoModel.from_pretrained(model)(input_ids=tokens["input_ids"]).last_hidden_state[0]
    return hidden[-1] if pooling == "last-token" else hidden.mean(0)


@pytest.mark.parametrize("model", ["llama", "no-pad", "gpt2"])
@pytest.mark.parametrize("pooling", ["last-token", "mean"])
def test_a_text_in_a_batch_is_embedded_as_by_itself(model: str, pooling: CausalPooling, folder: Path) -> None:
    encoder = CausalEncoder(str(folder / model), pooling)
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, 16)
    assert vectors.dtype == torch.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        torch.testing.assert_close(vector, alone(folder / model, text, pooling), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["last-token", "mean"])
def test_a_text_without_tokens_is_embedded_as_the_end_of_text(pooling: CausalPooling, folder: Path) -> None:
    encoder = CausalEncoder(str(folder / "llama"), pooling)
    vectors = encoder.encode(["", "glass", " "])
    expected = alone(folder / "llama", "</s>", pooling)
    torch.testing.assert_close(vectors[0], expected)
    torch.testing.assert_close(vectors[2], expected)
    torch.testing.assert_close(vectors[1], alone(folder / "llama", "glass", pooling), atol=1e-5, rtol=1e-5)


def test_a_long_text_is_read_from_its_beginning(folder: Path) -> None:
    encoder = CausalEncoder(str(folder / "llama"), max_length=3)
    long, short = encoder.encode(["a red chair with four legs", "a red chair"])
    torch.testing.assert_close(long, short)


def test_more_tokens_than_the_model_reads_are_refused_or_not_asked_for(folder: Path) -> None:
    assert CausalEncoder(str(folder / "gpt2")).max_length == 64
    with pytest.raises(ConfigError, match="reads at most 64 tokens"):
        CausalEncoder(str(folder / "gpt2"), max_length=65)


def test_the_description_tells_models_and_poolings_apart(folder: Path) -> None:
    described = CausalEncoder(str(folder / "llama")).describe()
    assert described["architecture"] == "LlamaModel"
    assert str(described["revision"]).startswith("sha256:")
    assert described["pooling"] == "last-token"
    assert described == CausalEncoder(str(folder / "llama")).describe()
    for other in (CausalEncoder(str(folder / "gpt2")), CausalEncoder(str(folder / "llama"), "mean")):
        assert other.describe() != described


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--embed-captions") as refused:
        CausalEncoder(str(tmp_path))
    assert str(tmp_path) in str(refused.value)
