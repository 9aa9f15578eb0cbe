"""Texts to vectors, by the embeddings endpoint of a server that speaks OpenAI's protocol."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from lirdrec_pyg.data.tables import first_line
from lirdrec_pyg.features.chat import RequestError, Server, ServerError
from lirdrec_pyg.features.encoder import Encoder, UnusableEntries

# What any model can embed.
_PLAIN = "chair"


class EndpointEncoder(Encoder):
    """Embeddings that a server computes.

    Rows are ordered by the ``index`` of the answer. An answer with another number of vectors, an index that occurs
    twice, vectors of another width than before or entries that are no finite numbers is asked for again, as one that
    is cut off. If a batch is refused, or fails for good, its halves are sent by themselves, until those texts are found
    that the server doesn't take, such as one that is too long; a plain word is sent at first, and again before a text
    is given up, to tell their faults from those of the server.

    Args:
        server: that is asked.
        model: by the name that the server knows it.
        batch_size: texts in a request.

    Raises:
        ServerError: by :meth:`encode`, if the server can't be used, or doesn't take a plain word either.
    """

    def __init__(self, server: Server, model: str, batch_size: int = 32) -> None:
        # So many that all requests that may be under way at a time are.
        self.batch_size = batch_size * server.concurrency
        self._request_size = batch_size
        self._server, self._model = server, model
        self._width: int | None = None

    def length(self, entry: str) -> int:
        return len(entry)

    def encode(self, batch: Sequence[str]) -> Tensor:
        parts = [list(batch[start : start + self._request_size]) for start in range(0, len(batch), self._request_size)]
        with ThreadPoolExecutor(self._server.concurrency) as pool:
            answers = [answer for part in pool.map(self._embed_or_split, parts) for answer in part]
        reasons = {place: answer for place, answer in enumerate(answers) if isinstance(answer, str)}
        nothing = torch.full((self._width or 1,), torch.nan)
        vectors = torch.stack([nothing if isinstance(answer, str) else answer for answer in answers])
        if reasons:
            raise UnusableEntries(reasons, vectors)
        return vectors

    def _embed_or_split(self, texts: list[str], is_half: bool = False) -> list[Tensor | str]:
        """The vector of each text, or why there is none."""
        try:
            return list(self._embed(texts))
        except RequestError as error:
            if not is_half or len(texts) == 1:  # the server may have gone down since the first half
                self._check_server(error)
            if len(texts) == 1:
                return [str(error).rstrip(".")]
        middle = len(texts) // 2
        return [answer for half in (texts[:middle], texts[middle:]) for answer in self._embed_or_split(half, True)]

    def _check_server(self, refusal: RequestError) -> None:
        """Raises :class:`ServerError` if it isn't the texts that are to blame for ``refusal``."""
        try:
            self._embed([_PLAIN])
        except RequestError:
            raise ServerError(
                f"{refusal} It does the same for the word {_PLAIN!r}, so that no text will fare better."
            ) from refusal

    def _embed(self, texts: list[str]) -> Tensor:
        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        vectors = self._server.post("embeddings", body, lambda answer: self._read(answer, len(texts)))
        self._width = vectors.size(1)
        return vectors

    def _read(self, answer: dict[str, Any], count: int) -> Tensor:
        rows = answer["data"]
        if len(rows) != count:
            raise ValueError(f"{len(rows)} vectors for {count} texts")
        by_index = {row.get("index", place): row["embedding"] for place, row in enumerate(rows)}
        if by_index.keys() != set(range(count)):
            raise ValueError("vectors whose indices are not those of the texts")
        try:
            vectors = torch.tensor([by_index[index] for index in range(count)], dtype=torch.float32)
        except (RuntimeError, OverflowError) as error:
            raise ValueError(first_line(error)) from error
        if vectors.dim() != 2 or not vectors.numel():
            raise ValueError("vectors that are none")
        if self._width not in (None, vectors.size(1)):
            raise ValueError(f"vectors of width {vectors.size(1)}, where those before had {self._width}")
        if not vectors.isfinite().all():
            raise ValueError("vectors with entries that are no finite numbers")
        return vectors

    def describe(self) -> dict[str, Any]:
        return {"library": "server", "url": self._server.url, "model": self._model}
