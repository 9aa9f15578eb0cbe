"""Every setting of a run, each with its meaning, default and bounds in one place.

The command line makes its options out of these fields (``num_layers`` is ``--num-layers``), a
configuration file uses their names as keys, and ``config.yaml`` of a run lists them all.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from lirdrec_pyg.errors import ConfigError

SplitStrategy = Literal["auto", "labels", "random", "leave-last-out", "time", "cold-items"]
ZeroFeatures = Literal["error", "missing"]
NeighbourSearch = Literal["auto", "exact", "approximate"]
DCTMode = Literal["feature", "2d"]
Transformation = Literal["feature", "2d", "none"]
Fusion = Literal["pwc", "mean", "static", "attention"]
SparseBackend = Literal["torch", "torch-sparse"]
Device = Literal["auto", "cpu", "cuda"]
Fallback = Literal["skip", "popular", "error"]
ExportFormat = Literal["safetensors", "parquet", "npy"]
Sampling = Literal["full", "neighbors"]
UserGradients = Literal["dense", "sparse"]
Preset = Literal["paper", "fast"]
EncoderDtype = Literal["float32", "float16", "bfloat16"]
ImagePooling = Literal["auto", "projection", "pooled", "cls", "mean"]
CaptionEncoding = Literal["sentence", "last-token", "mean", "endpoint"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]


def _field(
    default: Any,
    doc: str,
    *,
    choices: Any = None,
    min: float | None = None,
    max: float | None = None,
    min_open: bool = False,
) -> Any:
    metadata = {
        "doc": doc,
        "choices": get_args(choices) or None,
        "min": min,
        "max": max,
        "min_open": min_open,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class _Config:
    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            _check_type(option_name(field), value, hints[field.name])
            _check_bounds(option_name(field), value, field.metadata)

    @classmethod
    def doc(cls, name: str) -> str:
        """What the field ``name`` means."""
        return cls.__dataclass_fields__[name].metadata["doc"]


def option_name(field: "dataclasses.Field[Any]") -> str:
    """Name of ``field`` on the command line."""
    return "--" + field.name.replace("_", "-")


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        return  # its choices are checked
    kinds = tuple(get_origin(kind) or kind for kind in (get_args(hint) if get_origin(hint) is UnionType else (hint,)))
    if float in kinds:
        kinds += (int,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"{name} is {value!r}: it has to be of type {' or '.join(k.__name__ for k in kinds)}.")


def _check_bounds(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if (choices := metadata.get("choices")) and value not in choices:
        raise ConfigError(f"{name} is {value!r}: it has to be one of {', '.join(choices)}.")
    low, high = metadata.get("min"), metadata.get("max")
    if value is None or isinstance(value, (str, dict)):
        return
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"{name} is an integer of more than 64 bits: give a smaller one.")
    if not math.isfinite(value):
        raise ConfigError(f"{name} is {value}: it has to be a finite number.")
    if low is not None and (value <= low if metadata["min_open"] else value < low):
        raise ConfigError(f"{name} is {value}: it has to be {'above' if metadata['min_open'] else 'at least'} {low}.")
    if high is not None and value > high:
        raise ConfigError(f"{name} is {value}: it has to be at most {high}.")


@dataclass(frozen=True)
class ColumnConfig(_Config):
    """Where a table has what."""

    user_column: str | None = _field(
        None, "Column of user IDs; by default one with a usual name, such as user_id or userID."
    )
    item_column: str | None = _field(
        None, "Column of item IDs; by default one with a usual name, such as item_id or itemID."
    )
    label_column: str | None = _field(None, "Column of split labels (0/1/2 or train/valid/test), if there is one.")
    time_column: str | None = _field(None, "Column of times, a number or a date, if there is one.")
    separator: str | None = _field(None, "Separator of a text table; by default a comma in .csv, else a tab.")


@dataclass(frozen=True)
class DataConfig(ColumnConfig):
    """What to train on."""

    data: str = _field(
        "synthetic",
        "A folder (MMRec layout, raw files of TikTok or LATTICE, or a table beside feature files), a table of "
        "interactions, or 'synthetic' for generated data.",
    )
    features: dict[str, str] = _field(
        {},
        "MODALITY=FILE, once a modality: item features in .npy, .npz, .pt, .safetensors or .parquet. Or a folder, "
        "such as 'features' makes: the files in it named MODALITY_feat.*. By default those beside the table.",
    )
    item_ids: str | None = _field(
        None,
        "Text file with one item ID a line, for feature files whose rows go by position. By default "
        "row r belongs to the item with the integer ID r.",
    )
    k_core: int = _field(0, "Keep only users and items with at least this many interactions.", min=0)
    split: SplitStrategy = _field(
        "auto",
        "How to split: the table's labels, random 8:1:1 per user, the last of each user, or global "
        "time; 'auto' takes the labels if there are any, else random. 'cold-items' holds out whole items, "
        "which the training never meets, and splits the others at random.",
        choices=SplitStrategy,
    )
    cold_fraction: float = _field(
        0.2, "Share of the items that --split cold-items holds out, half for validation.", min=0, min_open=True, max=0.9
    )
    zero_features: ZeroFeatures = _field(
        "error",
        "What a feature row of zeros alone, or of NaN alone, is: an error, or a missing one.",
        choices=ZeroFeatures,
    )


@dataclass(frozen=True)
class ModelConfig(_Config):
    """Hyper-parameters of a model."""

    model: ClassVar[str]
    # Settings of the training with other defaults than those of TrainingConfig.
    training: ClassVar[Mapping[str, Any]] = {}
    # Whether the model is computed at once, without training steps.
    closed_form: ClassVar[bool] = False


@dataclass(frozen=True)
class LIRDRecConfig(ModelConfig):
    """Hyper-parameters of LIRDRec (paper, section 4), and what its ablations leave out or put in."""

    model: ClassVar[str] = "lirdrec"

    embedding_dim: int = _field(64, "Width d of one branch.", min=1)
    num_layers: int = _field(2, "Layers L of user-item propagation; the paper tries 2, 3, 4.", min=0)
    num_item_layers: int = _field(1, "Layers n of item-item propagation.", min=0)
    knn_k: int = _field(10, "Neighbours of an item in the item graph, itself among them.", min=1)
    knn_search: NeighbourSearch = _field(
        "auto",
        "How the neighbours are found: 'exact' compares all items with all others, 'approximate' goes by faiss "
        "(extra 'faiss'); 'auto' is exact up to where that takes minutes.",
        choices=NeighbourSearch,
    )
    graph_weights: dict[str, float] = _field(
        {},
        "MODALITY=WEIGHT, once a modality: its share in the item graph. The rest is shared evenly; by "
        "default 'image' beside others has 0.1.",
    )
    dct: Transformation = _field(
        "feature",
        "Axes of the cosine transform. 'feature' is what the released program computes; '2d' is the "
        "paper's text, and can't encode an item that arrives later; 'none' leaves the shared branch out.",
        choices=Transformation,
    )
    network_weight: float = _field(0.9, "Start weight w0 of the fusion network against the memory.", min=0, max=1)
    decay_base: float = _field(0.9, "Base of the fusion network's decay.", min=0, max=1, min_open=True)
    reg_weight: float = _field(1e-4, "Weight lambda of the regulariser.", min=0)
    fusion: Fusion = _field(
        "pwc",
        "How a user's branches are weighted: 'pwc' is the paper's, 'mean' weights them alike, 'static' learns a "
        "weight for each user and branch, 'attention' goes by the network alone.",
        choices=Fusion,
    )
    item_graph: bool = _field(True, "Propagation over the item graph.")
    id_branch: bool = _field(False, "A further branch in which items have free vectors, as IDs do elsewhere.")
    only_modality: str | None = _field(None, "The one modality that takes part; by default all do.")

    @property
    def is_inductive(self) -> bool:
        """Whether the model can encode an item that it was not trained with."""
        return self.dct != "2d" and not self.id_branch


def _width() -> Any:
    return _field(64, "Width d of a vector.", min=1)


def _layers(default: int) -> Any:
    return _field(default, "Layers of user-item propagation.", min=0)


def _content_neighbours() -> Any:
    return _field(10, "Neighbours of an item by its features, itself among them.", min=1)


def _search() -> Any:
    return dataclasses.field(default="auto", metadata=LIRDRecConfig.__dataclass_fields__["knn_search"].metadata)


# The learning rate of the peers' own programs.
_PEER_TRAINING: Mapping[str, Any] = {"lr": 1e-3}


@dataclass(frozen=True)
class PopularityConfig(ModelConfig):
    """The most popular items for everybody; there is nothing to set."""

    model: ClassVar[str] = "popularity"
    closed_form: ClassVar[bool] = True


@dataclass(frozen=True)
class ContentKNNConfig(ModelConfig):
    """Hyper-parameters of the item kNN on content."""

    model: ClassVar[str] = "content-knn"
    closed_form: ClassVar[bool] = True

    knn_k: int = _field(20, "Neighbours of an item by its features.", min=1)
    knn_search: NeighbourSearch = _search()


@dataclass(frozen=True)
class ItemKNNConfig(ModelConfig):
    """Hyper-parameters of item-based collaborative filtering."""

    model: ClassVar[str] = "item-knn"
    closed_form: ClassVar[bool] = True

    num_neighbours: int = _field(100, "Neighbours of an item by its users.", min=1)
    user_power: float = _field(
        1.0,
        "A user counts by the number of their items to minus this power, against those who have very many; "
        "0 counts all alike.",
        min=0,
        max=4,
    )
    item_power: float = _field(
        0.25, "A neighbour counts by the number of its users to minus this power, against popular ones.", min=0, max=4
    )


@dataclass(frozen=True)
class EASEConfig(ModelConfig):
    """Hyper-parameters of EASE."""

    model: ClassVar[str] = "ease"
    closed_form: ClassVar[bool] = True

    l2: float = _field(20.0, "Weight lambda of the squared norm of the item-item weights.", min=0, min_open=True)


@dataclass(frozen=True)
class BPRMFConfig(ModelConfig):
    """Hyper-parameters of matrix factorisation by BPR."""

    model: ClassVar[str] = "bpr-mf"
    training: ClassVar[Mapping[str, Any]] = _PEER_TRAINING

    embedding_dim: int = _width()
    reg_weight: float = _field(1e-3, "Weight of the squared norms of the vectors in a batch.", min=0)


@dataclass(frozen=True)
class LightGCNConfig(ModelConfig):
    """Hyper-parameters of LightGCN."""

    model: ClassVar[str] = "lightgcn"
    training: ClassVar[Mapping[str, Any]] = _PEER_TRAINING

    embedding_dim: int = _width()
    num_layers: int = _layers(3)
    reg_weight: float = _field(1e-4, "Weight of the squared norms of the start vectors in a batch.", min=0)


@dataclass(frozen=True)
class VBPRConfig(ModelConfig):
    """Hyper-parameters of VBPR."""

    model: ClassVar[str] = "vbpr"
    training: ClassVar[Mapping[str, Any]] = _PEER_TRAINING

    embedding_dim: int = _field(64, "Width of the free vectors, and that of the projected features.", min=1)
    reg_weight: float = _field(1e-3, "Weight of the squared norms of the vectors and biases in a batch.", min=0)
    projection_reg_weight: float = _field(0.0, "Weight of the squared norm of the projection of the features.", min=0)


@dataclass(frozen=True)
class BM3Config(ModelConfig):
    """Hyper-parameters of BM3."""

    model: ClassVar[str] = "bm3"
    training: ClassVar[Mapping[str, Any]] = _PEER_TRAINING

    embedding_dim: int = _width()
    num_layers: int = _layers(1)
    dropout: float = _field(0.3, "Share of entries left out of the target views.", min=0, max=0.99)
    modality_weight: float = _field(2.0, "Weight of the losses that align and mask the modalities.", min=0)
    reg_weight: float = _field(0.1, "Weight of the mean squares of the start vectors.", min=0)


@dataclass(frozen=True)
class FREEDOMConfig(ModelConfig):
    """Hyper-parameters of FREEDOM; the share of edges that it leaves out is --edge-dropout."""

    model: ClassVar[str] = "freedom"
    training: ClassVar[Mapping[str, Any]] = {**_PEER_TRAINING, "edge_dropout": 0.8}

    embedding_dim: int = _width()
    num_layers: int = _layers(2)
    num_item_layers: int = _field(1, "Layers of item-item propagation.", min=0)
    knn_k: int = _content_neighbours()
    knn_search: NeighbourSearch = _search()
    graph_weights: dict[str, float] = dataclasses.field(
        default_factory=dict, metadata=LIRDRecConfig.__dataclass_fields__["graph_weights"].metadata
    )
    modality_weight: float = _field(1e-3, "Weight of the losses by the features alone.", min=0)


@dataclass(frozen=True)
class MGCNConfig(ModelConfig):
    """Hyper-parameters of MGCN."""

    model: ClassVar[str] = "mgcn"
    training: ClassVar[Mapping[str, Any]] = _PEER_TRAINING

    embedding_dim: int = _width()
    num_layers: int = _layers(2)
    num_item_layers: int = _field(1, "Layers of item-item propagation.", min=0)
    knn_k: int = _content_neighbours()
    knn_search: NeighbourSearch = _search()
    contrast_weight: float = _field(0.001, "Weight of the contrast between behaviour and modalities.", min=0)
    temperature: float = _field(0.2, "Of the contrast.", min=0, min_open=True)
    reg_weight: float = _field(1e-4, "Weight of the squared norms of the vectors in a batch.", min=0)


MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    kind.model: kind
    for kind in (
        LIRDRecConfig,
        PopularityConfig,
        ContentKNNConfig,
        ItemKNNConfig,
        EASEConfig,
        BPRMFConfig,
        LightGCNConfig,
        VBPRConfig,
        BM3Config,
        FREEDOMConfig,
        MGCNConfig,
    )
}


@dataclass(frozen=True)
class TrainingConfig(_Config):
    """How to train (paper, section 5.1)."""

    epochs: int = _field(1000, "At most this many epochs.", min=1)
    patience: int = _field(20, "Stop after this many epochs without a better validation Recall@20.", min=1)
    batch_size: int = _field(2048, "Triples (user, item, negative) in a step.", min=1)
    lr: float = _field(1e-4, "Learning rate of Adam.", min=0, min_open=True)
    weight_decay: float = _field(0.0, "Weight decay of Adam.", min=0)
    edge_dropout: float = _field(
        0.0, "Share of edges left out of each epoch, those of popular nodes first.", min=0, max=0.99
    )
    negatives: int = _field(
        1,
        "Negatives of each triple. With several, LIRDRec learns from a softmax over them, which may take fewer epochs "
        "and come further, but each takes longer.",
        min=1,
        max=256,
    )
    popularity_alpha: float = _field(
        0.0, "Negatives are drawn in proportion to popularity to this power; 0 is uniform.", min=0, max=4
    )
    seed: int = _field(
        999,
        "Seed of a random split, the start weights and the sampling; generated data are always the same.",
        min=0,
        max=2**32 - 1,
    )
    device: Device = _field("auto", "Where to train.", choices=Device)
    precision: Precision = _field("32-true", "Arithmetic of the training steps.", choices=Precision)
    checkpoint_minutes: float = _field(
        10.0,
        "Within an epoch, write down where the training stands this often; it is done at the end of an epoch anyway.",
        min=0,
    )
    sparse_backend: SparseBackend = _field(
        "torch",
        "Kernels of the graph products; 'torch-sparse' needs the extra 'sparse'.",
        choices=SparseBackend,
    )
    sampling: Sampling = _field(
        "full",
        "What a step passes over: the whole graph, or sampled 'neighbors' of its triples, for graphs too large for "
        "that; these need pyg-lib or the extra 'sparse'.",
        choices=Sampling,
    )
    fanout: str | None = _field(
        None,
        "Neighbours that --sampling neighbors draws of a node in each layer of user-item propagation, such as 20,10; "
        "-1 takes all. By default 20 in the first layer and 10 in each further one.",
    )
    sampling_workers: int = _field(0, "Processes that sample neighbours ahead.", min=0)
    user_gradients: UserGradients = _field(
        "dense",
        "With --sampling neighbors, 'sparse' touches the vectors of a step's users only (SparseAdam), which saves time "
        "and memory with millions of them.",
        choices=UserGradients,
    )

    def fanouts(self, num_layers: int) -> tuple[int, ...]:
        """``fanout`` for each of so many layers.

        Raises:
            ConfigError: if it is for another number of layers, or no list of numbers.
        """
        if self.fanout is None:
            return (20, *[10] * (num_layers - 1))[:num_layers]
        try:
            fanouts = tuple(int(number) for number in self.fanout.split(","))
        except ValueError:
            fanouts = ()
        if not fanouts or any(number != -1 and not 2 <= number < 2**31 for number in fanouts):
            raise ConfigError(
                f"--fanout is {self.fanout!r}: it has to be numbers from 2 on such as 20,10, or -1 for all."
            )
        if len(fanouts) != num_layers:
            raise ConfigError(
                f"--fanout {self.fanout} has {len(fanouts)} number{'s'[: len(fanouts) != 1]}, and --num-layers is "
                f"{num_layers}: give a number for each layer."
            )
        return fanouts


@dataclass(frozen=True)
class FeaturesConfig(_Config):
    """How a catalogue becomes features."""

    id_col: str | None = _field(
        None, "Column of item IDs; by default one with a usual name, such as item_id or itemID, or id."
    )
    text_cols: str | None = _field(
        None,
        "Columns of texts, with commas between them, which become the modality 'text': those that an item has are "
        "joined in this order, with a line break between them, and go to the model as they are, but for spaces around "
        "the whole.",
    )
    image_col: str | None = _field(None, "Column with the path of each item's picture: the modality 'image'.")
    audio_col: str | None = _field(None, "Column with the path of each item's sound: the modality 'audio'.")
    root: str | None = _field(None, "Folder that the paths go by, and may not leave; by default that of the catalogue.")
    separator: str | None = _field(None, "Separator of a text table; by default a comma in .csv, else a tab.")
    text_model: str = _field(
        "sentence-transformers/all-MiniLM-L6-v2",
        "What encodes texts: any model of sentence-transformers, a local folder or a name on the Hugging Face Hub; "
        "vectors are those of SentenceTransformer(MODEL).encode(TEXT), with the model's own pooling, prompt and "
        "length.",
    )
    image_model: str = _field(
        "google/siglip-base-patch16-224",
        "What encodes pictures: any model that transformers' AutoModel and AutoImageProcessor know, such as CLIP, "
        "SigLIP, DINO or ViT.",
    )
    audio_model: str = _field(
        "laion/clap-htsat-unfused", "What encodes sounds: a CLAP model, or Whisper, of which the encoder is taken."
    )
    max_length: int | None = _field(
        None, "Tokens of a text that are read; by default as many as the model was made for.", min=1
    )
    image_pooling: ImagePooling = _field(
        "auto",
        "What is taken of an image model: the vector that it compares with texts, its own pooling, the first token, or "
        "the mean over the tokens; 'auto' is the first of these that suits the model.",
        choices=ImagePooling,
    )
    audio_seconds: float = _field(
        30.0, "Seconds of a sound that are read, from its beginning.", min=0, min_open=True, max=3600
    )
    batch_size: int = _field(32, "Items that go through a model at once.", min=1)
    dtype: EncoderDtype = _field(
        "float32", "Arithmetic of the models; half the bits are for GPUs.", choices=EncoderDtype
    )
    device: Device = _field("auto", "Where to encode.", choices=Device)
    pca: int | None = _field(None, "Keep this many principal components of each modality.", min=1)
    whiten: bool = _field(
        False, "Turn the vectors into their principal axes, and give each axis the standard deviation 1."
    )
    normalize: bool = _field(False, "Divide each vector by its length, after all else.")


@dataclass(frozen=True)
class CaptionConfig(_Config):
    """How pictures become words, and these become features."""

    caption: str | None = _field(
        None,
        "Describe the pictures in words by this model, and keep the captions in OUT/captions.jsonl: any "
        "image-text-to-text model of transformers, a local folder or a name on the hub, or a model of the server in "
        "--caption-url.",
    )
    caption_url: str | None = _field(
        None,
        "Server that speaks OpenAI's protocol, such as http://localhost:8000/v1 (vLLM, llama.cpp, Ollama, hosted); by "
        "default that in OPENAI_BASE_URL, if --caption is no local folder.",
    )
    api_key_env: str = _field(
        "OPENAI_API_KEY", "Environment variable with the key of the server, which is written down nowhere."
    )
    prompt: str | None = _field(
        None,
        "Text file with what the model is told, in place of a description of kind, colour, material, style and use; "
        "{title} stands for what the column 'title' of the catalogue says of the item.",
    )
    caption_concurrency: int = _field(
        4, "Pictures that are described at a time: requests to a server, or a batch of a local model.", min=1, max=1024
    )
    caption_timeout: float = _field(
        120.0, "Seconds that a request to a server may take, before it is tried again.", min=0, min_open=True, max=3600
    )
    recaption: bool = _field(
        False,
        "Make captions anew whose picture, prompt or model has changed since; those that were corrected by hand stay.",
    )
    embed_captions: str | None = _field(
        None,
        "Make the modality 'caption' of the captions, encoded by this model: a local folder, or a name on the hub "
        "or a server. Without --caption, of the captions that are in OUT/captions.jsonl.",
    )
    embed_captions_by: CaptionEncoding = _field(
        "sentence",
        "How: by sentence-transformers, by the hidden states of a causal language model (the last or the mean of all), "
        "or by the embeddings endpoint of a server.",
        choices=CaptionEncoding,
    )
    embed_url: str | None = _field(None, "Server of --embed-captions-by endpoint; by default that of the captions.")
    no_image: bool = _field(False, "Leave out the modality 'image': captions take its place.")


# What each preset sets; all else stays at its default.
PRESETS: dict[Preset, dict[str, Any]] = {
    "paper": {},
    # A step costs a pass over the whole graph, however few triples it has: so it has many, and their
    # gradient is good for longer strides.
    "fast": {"lr": 3e-4, "batch_size": 8192},
}
