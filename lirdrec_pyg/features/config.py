from dataclasses import dataclass
from typing import Literal

from lirdrec_pyg.config import Config, field
from lirdrec_pyg.devices import Device

EncoderDtype = Literal["float32", "float16", "bfloat16"]
ImagePooling = Literal["auto", "projection", "pooled", "cls", "mean"]
TextEncoding = Literal["sentence", "last-token", "mean"]
CaptionEncoding = Literal["sentence", "last-token", "mean", "endpoint"]


@dataclass(frozen=True)
class FeaturesConfig(Config):
    """Columns of a catalog, the models that encode them, and postprocessing."""

    id_col: str | None = field(None, "Column of item IDs; by default one with a usual name, such as item_id or id.")
    text_cols: str | None = field(
        None, "Columns of texts, separated by commas: the modality 'text'. Their texts are joined by line breaks."
    )
    image_col: str | None = field(None, "Column with the path of each item's image: the modality 'image'.")
    audio_col: str | None = field(None, "Column with the path of each item's audio: the modality 'audio'.")
    root: str | None = field(None, "Folder that contains the files of these paths; by default that of the catalog.")
    separator: str | None = field(None, "Separator of a text table, also several characters; by default detected.")
    text_model: str = field(
        "sentence-transformers/all-MiniLM-L6-v2",
        "Text model: any model of sentence-transformers, as a local folder or a name on the Hugging Face Hub, or with "
        "--text-by a causal language model.",
    )
    text_by: TextEncoding = field(
        "sentence",
        "How to encode texts: by SentenceTransformer(MODEL).encode(TEXT), or by the hidden states of a causal language "
        "model (that of the last token, or the mean over all tokens).",
    )
    image_model: str = field(
        "google/siglip-base-patch16-224",
        "Image model: any model that transformers' AutoModel and AutoImageProcessor support, such as CLIP, SigLIP, "
        "DINO or ViT.",
    )
    audio_model: str = field("laion/clap-htsat-unfused", "Audio model: CLAP, or Whisper, of which the encoder is used.")
    max_length: int | None = field(
        None, "Maximum number of tokens per text; by default that of the model, of causal models at most 512.", min=1
    )
    image_pooling: ImagePooling = field(
        "auto",
        "Output of the image model to use: the vector that it compares with texts, its own pooling, the first token, "
        "or the mean over the tokens; 'auto' is the first of these that suits the model.",
    )
    audio_seconds: float = field(
        30.0, "Seconds of an audio file to read, from its beginning.", min=0, min_open=True, max=3600
    )
    batch_size: int = field(32, "Items per forward pass of a model.", min=1)
    dtype: EncoderDtype = field("float32", "Data type of the models; half precision is for GPUs.")
    device: Device = field("auto", "Device of the models.")
    pca: int | None = field(None, "Keep this many principal components of each modality.", min=1)
    whiten: bool = field(False, "Rotate the vectors to their principal axes, each scaled to standard deviation 1.")
    normalize: bool = field(False, "Scale each vector to length 1, after all other steps.")


@dataclass(frozen=True)
class CaptionConfig(Config):
    """How images are described in words, and how these captions are encoded."""

    caption: str | None = field(
        None,
        "Model that describes the images; the captions are kept in OUT/captions.jsonl. Any image-text-to-text model of "
        "transformers, as a local folder or a name on the hub, or a model of the server in --caption-url.",
    )
    caption_url: str | None = field(
        None,
        "Server that speaks OpenAI's protocol, such as http://localhost:8000/v1 (vLLM, llama.cpp, Ollama, hosted); by "
        "default that in OPENAI_BASE_URL, unless --caption is a local folder.",
    )
    api_key_env: str = field(
        "OPENAI_API_KEY", "Environment variable that holds the server's key, which is never written to a file."
    )
    prompt: str | None = field(
        None,
        "Text file with the prompt, instead of one that asks for kind, color, material, style and use. {title} is "
        "replaced by the item's entry in the column 'title' of the catalog.",
    )
    caption_concurrency: int = field(
        4,
        "Images that are described in parallel: requests to a server, or batch size of a local model.",
        min=1,
        max=1024,
    )
    caption_timeout: float = field(
        120.0, "Seconds to wait for a server's response, before the request is retried.", min=0, min_open=True, max=3600
    )
    recaption: bool = field(False, "Replace captions whose image, prompt or model has changed, but no corrected ones.")
    embed_captions: str | None = field(
        None,
        "Model that encodes the captions: the modality 'caption'. A local folder, or a name on the hub or of a server. "
        "Without --caption, the captions that are in OUT/captions.jsonl are encoded.",
    )
    embed_captions_by: CaptionEncoding = field(
        "sentence",
        "How to encode captions: by sentence-transformers, by the hidden states of a causal language model (that of "
        "the last token, or the mean over all tokens), or by the embeddings endpoint of a server.",
    )
    embed_url: str | None = field(None, "Server of --embed-captions-by endpoint; by default that of the captions.")
    image: bool = field(True, "Encode the images themselves, too, as the modality 'image'.")
