"""Image and audio models with few random weights, saved as models of transformers."""

from pathlib import Path
from typing import Any

import torch

SIDE = 16
_TOWER = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
_VISION = {**_TOWER, "image_size": SIDE, "patch_size": 8}
_SQUARE = {"height": SIDE, "width": SIDE}


def save_image_model(kind: str, folder: Path) -> Path:
    """Save an image model of the kind ``clip``, ``siglip``, ``vit``, ``dinov2``, ``ijepa``, ``vit_mae``, ``vit_msn``,
    ``beit`` or ``resnet``, and its processor."""
    import transformers as hf

    torch.manual_seed(0)
    text = {**_TOWER, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    model: Any
    if kind == "clip":
        model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=6))
        processor = hf.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SQUARE)
    elif kind == "siglip":
        model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=_VISION))
        processor = hf.SiglipImageProcessorPil(size=_SQUARE)
    elif kind == "vit":
        model = hf.ViTModel(hf.ViTConfig(**_VISION))
        processor = hf.ViTImageProcessorPil(size=_SQUARE)
    elif kind == "dinov2":
        model = hf.Dinov2Model(hf.Dinov2Config(**_VISION))
        processor = hf.BitImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SQUARE)
    elif kind in ("ijepa", "vit_mae", "vit_msn", "beit"):
        config = hf.AutoConfig.for_model(kind, **_VISION)
        model, processor = hf.AutoModel.from_config(config), hf.ViTImageProcessorPil(size=_SQUARE)
    else:
        model = hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1]))
        processor = hf.ConvNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_pct=1.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_audio_model(kind: str, folder: Path) -> Path:
    """Save an audio model of the kind ``whisper``, ``clap`` or ``clap-fused``, and its feature extractor."""
    import transformers as hf

    torch.manual_seed(0)
    model: Any
    if kind == "whisper":
        tokens = {"vocab_size": 10, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
        sizes = {f"{part}_{name}": 1 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
        sizes |= {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "decoder_start_token_id": 2}
        model = hf.WhisperModel(
            hf.WhisperConfig(d_model=8, num_mel_bins=8, max_source_positions=100, **sizes, **tokens)
        )
        extractor: Any = hf.WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    else:
        fused = kind == "clap-fused"
        audio = {
            "spec_size": 64,
            "num_mel_bins": 8,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "patch_embeds_hidden_size": 8,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "hidden_size": 16,
            "window_size": 2,
            "num_classes": 3,
            "enable_fusion": fused,
        }
        text = {**_TOWER, "vocab_size": 20, "max_position_embeddings": 16}
        model = hf.ClapModel(hf.ClapConfig(text_config=text, audio_config=audio, projection_dim=6))
        extractor = hf.ClapFeatureExtractor(
            feature_size=8,
            sampling_rate=8000,
            max_length_s=2,
            hop_length=80,
            frequency_max=4000,
            truncation="fusion" if fused else "rand_trunc",
        )
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder
