"""Language models with a few thousand random weights, saved as real ones are."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

WORDS = (
    "red",
    "green",
    "blue",
    "big",
    "small",
    "round",
    "chair",
    "shoe",
    "lamp",
    "of",
    "wood",
    "leather",
    "glass",
    "with",
)
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """A tokenizer that knows some words, and spells others."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = SPECIAL + [f"##{letter}" for letter in letters] + letters + list(WORDS)
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def _llama(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )


def save_llama(folder: Path, pad_token: str | None = "<pad>", padding_side: str = "left") -> Path:
    """A causal language model for chats, saved with its head."""
    torch.manual_seed(1)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    words = tokenizer(**special, **({"pad_token": pad_token} if pad_token else {}), padding_side=padding_side)
    words.chat_template = "{% for message in messages %}chat {{ message.content }}{% endfor %}"
    LlamaForCausalLM(_llama(len(words))).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_gpt2(folder: Path) -> Path:
    """A causal language model with absolute positions."""
    torch.manual_seed(2)
    words = tokenizer(unk_token="<unk>", eos_token="</s>")
    GPT2Model(
        GPT2Config(
            vocab_size=len(words), bos_token_id=1, eos_token_id=2, n_positions=64, n_embd=16, n_layer=2, n_head=2
        )
    ).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : "
    "{% for part in message.content %}{% if part.type == 'image' %}<image> {% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} assistant : {% endif %}"
)


def save_llava(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """A model that describes images."""
    torch.manual_seed(3)
    words = tokenizer(
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=30, patch_size=10
    )
    config = LlavaConfig(
        vision_config=vision, text_config=_llama(len(words)), image_token_index=words.convert_tokens_to_ids("<image>")
    )
    model = LlavaForConditionalGeneration(config).eval()
    # Random weights hardly use the image, and may end immediately.
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.mul_(20)
        model.lm_head.weight.mul_(20)
    model.save_pretrained(folder)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}),
        tokenizer=words,
        patch_size=10,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )
    processor.save_pretrained(folder)
    return folder


def save_blip(folder: Path) -> Path:
    """A model without a chat template, which continues the prompt."""
    torch.manual_seed(4)
    words = tokenizer(unk_token="<unk>", cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(words), "encoder_hidden_size": 16, "bos_token_id": 1, "sep_token_id": 2}
    config = BlipConfig(
        text_config={**text, "eos_token_id": 2, "pad_token_id": 3},
        vision_config={**sizes, "image_size": 30, "patch_size": 10},
        projection_dim=16,
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": 30, "width": 30}), words)
    processor.save_pretrained(folder)
    return folder
