"""Models that describe images, locally or on a server."""

import base64
import io
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from lirdrec_pyg.data.image_files import SHOWN, as_shown, opened_image
from lirdrec_pyg.errors import ConfigError, DataError, RunError, first_line, shortened
from lirdrec_pyg.features.config import EncoderDtype
from lirdrec_pyg.features.openai_client import OpenAIClient, RequestError
from lirdrec_pyg.features.pretrained import Pretrained, check_installed

if TYPE_CHECKING:
    from PIL.Image import Image

# More than most models use.
MAX_SIDE = 1024
MAX_NEW_TOKENS = 200

_JPEG_QUALITY = 90
_MAX_CAPTION = 10_000
# Reasoning models write this first.
_THOUGHTS = re.compile(r"^\s*<think>.*?(</think>|\Z)", re.DOTALL)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """The image of an item, the prompt for it, and facts about both for the provenance."""

    item: int | str
    path: str
    prompt: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Caption of a task in one line, and whether it was cut off at its maximum length; or the reason why there is none,
    and what is to blame (``"unknown"`` if a request was refused or the caption is empty)."""

    task: Task
    caption: str | None = None
    reason: str | None = None
    cut: bool = False
    blame: Literal["image", "model", "unknown"] = "image"


class Captioner(ABC):
    """Base of models that describe images; ``packages`` are libraries besides torch that affect the captions."""

    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def caption(self, tasks: Iterable[Task], on_outcome: Callable[[Outcome], None]) -> None:
        """Describe images, consuming tasks as needed; call ``on_outcome`` in this thread for each, in any order."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the model and its settings, for the provenance."""


class ServerCaptioner(Captioner):
    """Captions by the ``chat/completions`` endpoint of a server, with temperature 0.

    Images are sent as JPEG. Parameters that a model does not support (``temperature``, ``max_tokens``) are dropped or
    renamed in later requests.
    """

    packages: ClassVar[tuple[str, ...]] = ("pillow",)

    def __init__(self, client: OpenAIClient, model: str) -> None:
        check_installed("pillow")
        self._client, self._model = client, model
        self._parameters: dict[str, Any] = {"temperature": 0, "max_tokens": MAX_NEW_TOKENS}

    def caption(self, tasks: Iterable[Task], on_outcome: Callable[[Outcome], None]) -> None:
        pool = ThreadPoolExecutor(self._client.concurrency)
        pending: set[Future[Outcome]] = set()

        def collect() -> None:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                pending.remove(future)
                on_outcome(future.result())

        try:
            for task in tasks:
                pending.add(pool.submit(self._describe_image, task))
                if len(pending) >= 2 * self._client.concurrency:
                    collect()
            while pending:
                collect()
        except BaseException:
            # Requests under way may have been paid for: wait for their captions and keep them.
            under_way = [future for future in pending if not future.cancel()]
            if under_way:
                _log.info("Stopping: waiting for requests that are under way.")
            for future in wait(under_way).done:
                if future.exception() is None and future.result().caption is not None:
                    on_outcome(future.result())
            raise
        finally:
            pool.shutdown(wait=False)

    def _describe_image(self, task: Task) -> Outcome:
        file = io.BytesIO()
        try:
            open_image(task.path).save(file, "JPEG", quality=_JPEG_QUALITY)
        except DataError as error:
            return Outcome(task, reason=str(error))
        url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": task.prompt}]
        try:
            text, cut = self._request([{"role": "user", "content": content}])
        except RequestError as error:
            return Outcome(task, reason=str(error).rstrip("."), blame="unknown" if error.refused else "model")
        return _outcome_of(task, text, cut)

    def _request(self, messages: list[dict[str, Any]]) -> tuple[str, bool]:
        parameters = self._parameters
        try:
            body = {"model": self._model, "messages": messages, **parameters}
            return self._client.post("chat/completions", body, _read_choice)
        except RequestError as error:
            if error.parameter not in parameters:
                raise
            # Replaced, not changed: other threads use the earlier dictionary.
            supported = {name: value for name, value in parameters.items() if name != error.parameter}
            if error.parameter == "max_tokens":
                supported["max_completion_tokens"] = MAX_NEW_TOKENS
            self._parameters = supported
            return self._request(messages)

    def describe(self) -> dict[str, Any]:
        return {
            "library": "server",
            "url": self._client.url,
            "model": self._model,
            "preprocessing": {**SHOWN, "max_side": MAX_SIDE},
            "max_new_tokens": MAX_NEW_TOKENS,
        }


def _read_choice(answer: dict[str, Any]) -> tuple[str, bool]:
    """Return the text of a response, and whether it was cut off."""
    choice = answer["choices"][0]
    content = choice["message"]["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise ValueError("its content is not text")
    return content or "", choice.get("finish_reason") == "length"


class LocalCaptioner(Captioner):
    """Captions by any ``image-text-to-text`` model of transformers, with greedy decoding.

    Raises:
        ConfigError: if the model cannot be loaded.
    """

    packages: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers", "pillow")

    def __init__(
        self,
        model: str,
        batch_size: int = 8,
        device: str = "cpu",
        dtype: EncoderDtype = "float32",
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        pretrained = Pretrained.find(model, self.packages)
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._name, self._batch_size, self._device = model, batch_size, device
        self._dtype, self._max_new_tokens = dtype, max_new_tokens
        with pretrained.loading():
            self._processor = AutoProcessor.from_pretrained(model, backend="pil", **pretrained.arguments)
            loaded, missing = pretrained.load(AutoModelForImageTextToText, getattr(torch, dtype))
        pretrained.check_complete(missing)
        self._tokenizer: Any = getattr(self._processor, "tokenizer", None)
        if self._tokenizer is None:
            raise ConfigError(f"The model {model} has no tokenizer. Pass a model of type image-text-to-text.")
        # New tokens are appended at the right end.
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = loaded.to(device).eval()
        self._revision = pretrained.revision(loaded.config)

    def caption(self, tasks: Iterable[Task], on_outcome: Callable[[Outcome], None]) -> None:
        tasks = iter(tasks)
        while batch := list(islice(tasks, self._batch_size)):
            readable: list[tuple[Task, Image]] = []
            for task in batch:
                try:
                    readable.append((task, open_image(task.path)))
                except DataError as error:
                    on_outcome(Outcome(task, reason=str(error)))
            for outcome in self._outcomes(readable):
                on_outcome(outcome)

    def _outcomes(self, batch: "Sequence[tuple[Task, Image]]") -> Iterator[Outcome]:
        if not batch:
            return
        try:
            texts = self._generate([image for _, image in batch], [task.prompt for task, _ in batch])
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"The device has too little memory for {len(batch)} images. Resume with a smaller "
                "`caption_concurrency`."
            ) from error
        except Exception as error:  # the model or processor does not support one of the images or prompts
            if len(batch) > 1:
                for entry in batch:
                    yield from self._outcomes([entry])
            else:
                yield Outcome(batch[0][0], reason=f"the model fails ({first_line(error)})", blame="model")
            return
        for (task, _), (text, cut) in zip(batch, texts, strict=True):
            yield _outcome_of(task, text, cut)

    @torch.inference_mode()
    def _generate(self, images: "Sequence[Image]", prompts: Sequence[str]) -> list[tuple[str, bool]]:
        """Return the text for each image, and whether it was cut off."""
        inputs = self._processor(
            images=[[image] for image in images],
            text=[self._format_prompt(prompt) for prompt in prompts],
            padding=True,
            return_tensors="pt",
        )
        inputs = inputs.to(self._device, getattr(torch, self._dtype))
        tokens = self._model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self._max_new_tokens)
        given = inputs["input_ids"]
        # Encoder-decoder models return only new tokens.
        if tokens.size(1) >= given.size(1) and torch.equal(tokens[:, : given.size(1)], given):
            tokens = tokens[:, given.size(1) :]
        prompts, texts = (self._tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (given, tokens))
        # BLIP repeats the prompt with other special tokens.
        texts = [text.removeprefix(prompt) for text, prompt in zip(texts, prompts, strict=True)]
        ends = self._model.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [] if ends is None else [ends], device=tokens.device)
        complete = torch.isin(tokens, ends).any(1) | (tokens.size(1) < self._max_new_tokens)
        return list(zip(texts, (~complete.cpu()).tolist(), strict=True))

    def _format_prompt(self, prompt: str) -> str:
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            text = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return str(text)
        token = getattr(self._processor, "image_token", None)
        return f"{token}\n{prompt}" if isinstance(token, str) else prompt

    def describe(self) -> dict[str, Any]:
        return {
            "library": "transformers",
            "model": self._name,
            "revision": self._revision,
            "architecture": type(self._model).__name__,
            "preprocessing": {**SHOWN, "max_side": MAX_SIDE},
            "max_new_tokens": self._max_new_tokens,
            "dtype": self._dtype,
        }


def _outcome_of(task: Task, text: str, cut: bool) -> Outcome:
    if caption := in_one_line(text):
        return Outcome(task, caption, cut=cut)
    return Outcome(task, reason="the model returned an empty caption", blame="unknown")


def in_one_line(text: str) -> str:
    """Remove thoughts, line breaks and invalid characters from a caption."""
    text = _THOUGHTS.sub("", text).encode(errors="replace").decode()
    return shortened(" ".join(text.replace("\0", " ").split()), _MAX_CAPTION)


def open_image(path: str, max_side: int = MAX_SIDE) -> "Image":
    """Read an image as it is shown, scaled down to ``max_side`` pixels; raises as :func:`opened_image`."""
    with opened_image(path) as image:
        image.draft("RGB", (max_side, max_side))  # decode a large JPEG at a smaller size
        shown = as_shown(image)
        shown.thumbnail((max_side, max_side))
        return shown
