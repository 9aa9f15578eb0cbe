"""Pictures to texts, by a local model or by a server."""

import base64
import io
import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lirdrec_pyg.config import EncoderDtype
from lirdrec_pyg.data.tables import first_line, shortened
from lirdrec_pyg.errors import ConfigError, DataError, RunError
from lirdrec_pyg.features.chat import RequestError, Server
from lirdrec_pyg.features.pictures import SHOWN, as_shown, opened_picture
from lirdrec_pyg.features.pretrained import Pretrained, check_installed, torch_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

# Longer sides are scaled down to this: more than most models look at.
MAX_SIDE = 1024
MAX_NEW_TOKENS = 200

_JPEG_QUALITY = 90
_MAX_CAPTION = 10_000
# What models that think aloud write first.
_THOUGHTS = re.compile(r"^\s*<think>.*?(</think>|\Z)", re.DOTALL)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A picture to be described.

    Attributes:
        item: ID of its item.
        path: of its file.
        prompt: what the model is told.
        image_hash: SHA-256 of the file.
        image_stamp: by what it is known whether the file has changed.
    """

    item: int | str
    path: str
    prompt: str
    image_hash: str
    image_stamp: Sequence[int] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        task: which.
        caption: in one line, ``None`` if there is none.
        reason: why there is none.
        cut: whether the caption was cut off by its greatest length.
        blame: whether the reason lies with the model or server, and not with the picture.
        doubtful: whether it may lie with either: the request was refused, or the caption is empty.
    """

    task: Task
    caption: str | None = None
    reason: str | None = None
    cut: bool = False
    blame: bool = False
    doubtful: bool = False


class Captioner(ABC):
    """Describes pictures.

    Attributes:
        packages: libraries that have a part in the result, beside torch.
    """

    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def caption(self, tasks: Iterable[Task], on_outcome: Callable[[Outcome], None]) -> None:
        """Describes one picture after the other, holding only a few at a time.

        Args:
            tasks: taken one by one as they are needed.
            on_outcome: called with the outcome of each in this thread, in any order. If the work is interrupted, also
                with those that were under way and came to an end.

        Raises:
            ServerError: if nothing more can be expected of a server.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """How captions come about, in plain values."""


class ServerCaptioner(Captioner):
    """Captions by a model on a server that speaks OpenAI's protocol, by ``chat/completions`` with temperature 0.

    Pictures are sent within the request, as JPEG with no side longer than ``max_side``. Entries of the request that
    a model does not take (``temperature``, ``max_tokens``) are left out or named otherwise from then on.

    Args:
        server: that is asked; as many requests are under way as it may take at a time.
        model: by the name that the server knows it.
        max_side: in pixels.
        max_new_tokens: of a caption.
    """

    packages: ClassVar[tuple[str, ...]] = ("pillow",)

    def __init__(
        self, server: Server, model: str, max_side: int = MAX_SIDE, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> None:
        check_installed("PIL")
        self._server, self._model = server, model
        self._max_side, self._max_new_tokens = max_side, max_new_tokens
        self._entries: dict[str, Any] = {"temperature": 0, "max_tokens": max_new_tokens}
        self._lock = threading.Lock()

    def caption(self, tasks: Iterable[Task], on_outcome: Callable[[Outcome], None]) -> None:
        pool = ThreadPoolExecutor(self._server.concurrency)
        pending: set[Future[Outcome]] = set()
        try:
            for task in tasks:
                pending.add(pool.submit(self._outcome, task))
                if len(pending) >= 2 * self._server.concurrency:
                    self._keep_done(pending, on_outcome)
            while pending:
                self._keep_done(pending, on_outcome)
        except BaseException:
            # What is under way may have been paid for: it is waited for and kept.
            self._server.stop()
            under_way = [future for future in pending if not future.cancel()]
            if not all(future.done() for future in under_way):
                _log.info("Stopping: waiting for the answers that are under way.")
            for future in wait(under_way).done:
                if future.exception() is None and future.result().caption is not None:
                    on_outcome(future.result())
            raise
        finally:
            pool.shutdown(wait=False)

    @staticmethod
    def _keep_done(pending: "set[Future[Outcome]]", on_outcome: Callable[[Outcome], None]) -> None:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            pending.remove(future)
            on_outcome(future.result())

    def _outcome(self, task: Task) -> Outcome:
        try:
            picture = open_picture(task.path, self._max_side)
        except DataError as error:
            return Outcome(task, reason=str(error))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_JPEG_QUALITY)
        url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": task.prompt}]
        body = {"model": self._model, "messages": [{"role": "user", "content": content}]}
        try:
            text, cut = self._asked(body)
        except RequestError as error:
            return Outcome(task, reason=str(error).rstrip("."), blame=not error.refused, doubtful=error.refused)
        if not (caption := in_one_line(text)):
            return Outcome(task, reason="the caption that came is empty", doubtful=True)
        return Outcome(task, caption, cut=cut)

    def _asked(self, body: Mapping[str, Any]) -> tuple[str, bool]:
        with self._lock:
            entries = dict(self._entries)
        try:
            return self._server.post("chat/completions", {**body, **entries}, _read_choice)
        except RequestError as error:
            if error.parameter not in entries:
                raise
            with self._lock:
                self._entries.pop(error.parameter, None)
                if error.parameter == "max_tokens":
                    self._entries["max_completion_tokens"] = self._max_new_tokens
            return self._asked(body)

    def describe(self) -> dict[str, Any]:
        return {
            "library": "server",
            "url": self._server.url,
            "model": self._model,
            "preprocessing": {**SHOWN, "max_side": self._max_side},
            "max_new_tokens": self._max_new_tokens,
        }


def _read_choice(answer: dict[str, Any]) -> tuple[str, bool]:
    """The text of an answer, and whether it was cut off."""
    choice = answer["choices"][0]
    content = choice["message"]["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise ValueError("content that is no text")
    return content or "", choice.get("finish_reason") == "length"


class LocalCaptioner(Captioner):
    """Captions by any ``image-text-to-text`` model of transformers, with greedy decoding.

    If the model has a chat template, the prompt goes through it after the picture; else it follows the model's token
    for a picture, if it has one.

    Args:
        model: a folder or a name on the hub.
        batch_size: pictures that go through the model at once.
        device: as torch names it.
        dtype: arithmetic of the model.
        max_side: longer sides are scaled down to this before the model's own preprocessing, in pixels.
        max_new_tokens: of a caption.
        option: what named the model, for messages.

    Raises:
        ConfigError: if the model can't be loaded.
    """

    packages: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers", "pillow")

    def __init__(
        self,
        model: str,
        batch_size: int = 8,
        device: str = "cpu",
        dtype: EncoderDtype = "float32",
        max_side: int = MAX_SIDE,
        max_new_tokens: int = MAX_NEW_TOKENS,
        option: str = "--caption",
    ) -> None:
        check_installed("transformers", "PIL")
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self._name, self._batch_size, self._device = model, batch_size, device
        self._dtype, self._max_side, self._max_new_tokens = dtype, max_side, max_new_tokens
        pretrained = Pretrained.find(model, option)
        with pretrained.loading():
            self._processor = AutoProcessor.from_pretrained(model, backend="pil", **pretrained.arguments)
            auto: Any = AutoModelForImageTextToText
            loaded, info = auto.from_pretrained(
                model, dtype=torch_dtype(dtype), output_loading_info=True, **pretrained.arguments
            )
        pretrained.check_complete(info["missing_keys"])
        tokenizer = getattr(self._processor, "tokenizer", None)
        if tokenizer is None:
            raise ConfigError(f"{option} {model} has no tokenizer: name a model that makes texts of pictures.")
        # What is generated follows the last column, so texts are filled up before their beginning.
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._tokenizer = tokenizer
        self._model = loaded.to(device).eval()
        self._revision = pretrained.revision(loaded.config)

    def caption(self, tasks: Iterable[Task], on_outcome: Callable[[Outcome], None]) -> None:
        for batch in _batches(tasks, self._batch_size):
            good: list[tuple[Task, Image]] = []
            for task in batch:
                try:
                    good.append((task, open_picture(task.path, self._max_side)))
                except DataError as error:
                    on_outcome(Outcome(task, reason=str(error)))
            for outcome in self._outcomes(good):
                on_outcome(outcome)

    def _outcomes(self, batch: "Sequence[tuple[Task, Image]]") -> Iterator[Outcome]:
        if not batch:
            return
        try:
            texts = self._generate([picture for _, picture in batch], [task.prompt for task, _ in batch])
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"The device has too little memory for {len(batch)} pictures at once: go on with a smaller "
                "--caption-concurrency."
            ) from error
        except Exception as error:  # of a processor or model that doesn't take one of the pictures or prompts
            if len(batch) > 1:
                for entry in batch:
                    yield from self._outcomes([entry])
            else:
                yield Outcome(batch[0][0], reason=f"the model fails ({first_line(error)})", blame=True)
            return
        for (task, _), (text, cut) in zip(batch, texts, strict=True):
            caption = in_one_line(text)
            reason = None if caption else "the model says nothing"
            yield Outcome(task, caption or None, reason, cut, doubtful=not caption)

    @torch.inference_mode()
    def _generate(self, pictures: "Sequence[Image]", prompts: Sequence[str]) -> list[tuple[str, bool]]:
        inputs = self._processor(
            images=[[picture] for picture in pictures],
            text=[self._as_the_model_is_asked(prompt) for prompt in prompts],
            padding=True,
            return_tensors="pt",
        )
        inputs = inputs.to(self._device, torch_dtype(self._dtype))
        tokens = self._model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self._max_new_tokens)
        given = inputs["input_ids"]
        # Models with an encoder for the prompt return what is new only.
        if tokens.size(1) >= given.size(1) and torch.equal(tokens[:, : given.size(1)], given):
            tokens = tokens[:, given.size(1) :]
        prompts, texts = (self._tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (given, tokens))
        # Some repeat the prompt with other special tokens around it.
        texts = [text.removeprefix(prompt) for text, prompt in zip(texts, prompts, strict=True)]
        ends = self._model.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [] if ends is None else [ends], device=tokens.device)
        whole = torch.isin(tokens, ends).any(1) | torch.tensor(tokens.size(1) < self._max_new_tokens)
        return list(zip(texts, (~whole.cpu()).tolist(), strict=True))

    def _as_the_model_is_asked(self, prompt: str) -> str:
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
            "preprocessing": {**SHOWN, "max_side": self._max_side},
            "max_new_tokens": self._max_new_tokens,
            "dtype": self._dtype,
        }


def in_one_line(text: str) -> str:
    """A caption without thoughts before it, line breaks and what can't be written to a file."""
    text = _THOUGHTS.sub("", text).encode(errors="replace").decode()
    return shortened(" ".join(text.replace("\0", " ").split()), _MAX_CAPTION)


def _batches(tasks: Iterable[Task], size: int) -> Iterator[list[Task]]:
    tasks = iter(tasks)
    while batch := list(islice(tasks, size)):
        yield batch


def open_picture(path: str, max_side: int) -> "Image":
    """A picture as it is shown, in RGB on white, with no side longer than ``max_side``.

    Raises:
        DataError: if it can't be read; the message is why, without a full stop or the name of the file.
    """
    with opened_picture(path) as picture:
        picture.draft("RGB", (max_side, max_side))  # a large JPEG is unpacked at a smaller size
        shown = as_shown(picture)
        shown.thumbnail((max_side, max_side))
        return shown
