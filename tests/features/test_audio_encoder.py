from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_encoders import save_audio_model, save_image_model

from lirdrec_pyg.errors import ConfigError, DataError
from lirdrec_pyg.features import AudioEncoder

KINDS = ("whisper", "clap", "clap-fused")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: str(save_audio_model(kind, folder / kind)) for kind in KINDS}


def sound(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(int(seconds * rate))).astype(np.float32)


def save(path: Path, samples: np.ndarray, rate: int) -> str:
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return str(path)


def vector(encoder: AudioEncoder, path: str) -> torch.Tensor:
    return encoder.encode([encoder.load(path)])[0]


def test_whisper_vectors_are_means_of_states_without_padding(models: dict[str, str], tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor, WhisperModel

    samples = sound(0.7, 16000)
    extractor = WhisperFeatureExtractor.from_pretrained(models["whisper"])
    inputs = extractor(samples, sampling_rate=16000, return_tensors="pt", return_attention_mask=True)
    with torch.inference_mode():
        states = WhisperModel.from_pretrained(models["whisper"]).eval().encoder(inputs["input_features"])[0]
    true = -(-int(inputs["attention_mask"].sum()) // 2)  # two frames per state
    assert true == 35
    found = vector(AudioEncoder(models["whisper"]), save(tmp_path / "a.wav", samples, 16000))
    torch.testing.assert_close(found, states[0, :true].mean(dim=0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["clap", "clap-fused"])
def test_clap_vectors_are_those_compared_with_texts(models: dict[str, str], tmp_path: Path, kind: str) -> None:
    from transformers import ClapFeatureExtractor, ClapModel

    samples = sound(2.0, 8000)
    inputs = ClapFeatureExtractor.from_pretrained(models[kind])(samples, sampling_rate=8000, return_tensors="pt")
    model = ClapModel.from_pretrained(models[kind]).eval()
    with torch.inference_mode():
        output = model.get_audio_features(inputs["input_features"], is_longer=torch.tensor([[False]]))
    found = vector(AudioEncoder(models[kind]), save(tmp_path / "a.wav", samples, 8000))
    torch.testing.assert_close(found, getattr(output, "pooler_output", output)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_recording_is_the_mean_of_its_windows(models: dict[str, str], tmp_path: Path, kind: str) -> None:
    encoder = AudioEncoder(models[kind], batch_size=2)
    rate = encoder._rate
    samples = sound(5.0, rate)  # windows of 2, 2 and 1 seconds
    pieces = [samples[: 2 * rate], samples[2 * rate : 4 * rate], samples[4 * rate :]]
    parts = [vector(encoder, save(tmp_path / f"{n}.wav", piece, rate)) for n, piece in enumerate(pieces)]
    whole = save(tmp_path / "whole.wav", samples, rate)
    expected = (2 * parts[0] + 2 * parts[1] + parts[2]) / 5
    torch.testing.assert_close(vector(encoder, whole), expected, atol=1e-5, rtol=1e-5)
    # It does not depend on the batch.
    loaded = [encoder.load(str(tmp_path / "0.wav")), encoder.load(whole), encoder.load(str(tmp_path / "2.wav"))]
    torch.testing.assert_close(
        encoder.encode(loaded), torch.stack([parts[0], expected, parts[2]]), atol=1e-5, rtol=1e-5
    )
    # Nothing after the given seconds is read.
    short = AudioEncoder(models[kind], seconds=2.0)
    torch.testing.assert_close(vector(short, whole), parts[0], atol=1e-5, rtol=1e-5)
    assert short.describe() != encoder.describe()


def test_random_choices_of_the_extractor_have_no_effect(models: dict[str, str], tmp_path: Path) -> None:
    encoder = AudioEncoder(models["clap-fused"])
    path = save(tmp_path / "a.wav", sound(5.0, 8000), 8000)
    found = []
    for seed in (0, 1, 2):
        np.random.seed(seed)  # noqa: NPY002  the extractor uses it
        found.append(vector(encoder, path))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_sampling_rate_and_channels_have_no_effect(models: dict[str, str], tmp_path: Path) -> None:
    encoder = AudioEncoder(models["whisper"])
    times = {rate: np.arange(rate) / rate for rate in (16000, 48000, 44100, 8000)}
    waves = {rate: (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32) for rate, t in times.items()}
    reference = vector(encoder, save(tmp_path / "16000.wav", waves[16000], 16000))
    for rate in (48000, 44100, 8000):
        stereo = np.stack([0.5 * waves[rate], 1.5 * waves[rate]], axis=1)
        other = vector(encoder, save(tmp_path / f"{rate}.wav", stereo, rate))
        assert torch.cosine_similarity(reference, other, dim=0) > 0.999
    assert encoder.load(str(tmp_path / "44100.wav")).samples.tolist() == [16000]


def test_damaged_audio_has_a_reason(models: dict[str, str], tmp_path: Path) -> None:
    encoder = AudioEncoder(models["whisper"])
    (tmp_path / "text.wav").write_text("not audio")
    good = Path(save(tmp_path / "good.flac", sound(1, 16000), 16000)).read_bytes()
    (tmp_path / "cut.flac").write_bytes(good[:30])
    save(tmp_path / "empty.wav", np.empty(0, dtype=np.float32), 16000)
    save(tmp_path / "nan.wav", np.full(100, np.nan, dtype=np.float32), 16000)
    save(tmp_path / "slow.wav", sound(100, 10), 10)
    for name, reason in {
        "nothing.wav": "no such file",
        "text.wav": "cannot be read",
        "cut.flac": "cannot be read",
        "empty.wav": "is empty",
        "nan.wav": "NaN or infinite",
        "slow.wav": "10 samples per second",
    }.items():
        with pytest.raises(DataError, match=reason) as error:
            encoder.load(str(tmp_path / name))
        assert str(tmp_path) not in str(error.value)


def test_silence_and_a_single_sample_are_encoded(models: dict[str, str], tmp_path: Path) -> None:
    for kind in KINDS:
        encoder = AudioEncoder(models[kind])
        for name, samples in (("silence.wav", np.zeros(4000)), ("click.wav", np.ones(1))):
            assert vector(encoder, save(tmp_path / name, samples.astype(np.float32), encoder._rate)).isfinite().all()


def test_models_of_another_kind_are_refused(tmp_path: Path, models: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="Cannot load the model"):
        AudioEncoder(str(save_image_model("vit", tmp_path / "vit")))
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    Wav2Vec2Model(Wav2Vec2Config(**sizes, conv_dim=(8,), conv_stride=(5,), conv_kernel=(10,))).save_pretrained(
        tmp_path / "other"
    )
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="of type wav2vec2"):
        AudioEncoder(str(tmp_path / "other"))
