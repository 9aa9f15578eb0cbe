from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from lirdrec_pyg.errors import first_line
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.features.openai_client import MAX_FAILURES, OpenAIClient, RequestError, ServerError


class EndpointEncoder(Encoder):
    """Text embeddings by a server that speaks OpenAI's protocol.

    If the server refuses a request, or fails to answer it, its texts are sent one by one; those that fail get no
    vector. ``batch_size`` is the number of texts per request.
    """

    def __init__(self, client: OpenAIClient, model: str, batch_size: int = 32) -> None:
        # Enough for all simultaneous requests.
        self.batch_size = batch_size * client.concurrency
        self._request_size = batch_size
        self._client, self._model = client, model
        self._width: int | None = None
        self._failures = 0  # texts in a row

    def encode(self, batch: Sequence[str]) -> list[Tensor | str]:
        parts = [list(batch[start : start + self._request_size]) for start in range(0, len(batch), self._request_size)]
        with ThreadPoolExecutor(self._client.concurrency) as pool:
            return [answer for part in pool.map(self._embed_each, parts) for answer in part]

    def _embed_each(self, texts: list[str]) -> list[Tensor | str]:
        """Return the vector of each text, or the reason why it has none."""
        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        try:
            vectors = self._client.post("embeddings", body, lambda answer: self._read(answer, len(texts)))
        except RequestError as error:
            if len(texts) > 1:
                return [answer for text in texts for answer in self._embed_each([text])]
            self._failures += 1
            if self._failures >= MAX_FAILURES and (self._width is None or not error.refused):
                raise ServerError(f"{error} It failed for {self._failures} texts in a row.") from error
            return [str(error).rstrip(".")]
        self._width, self._failures = vectors.size(1), 0
        return list(vectors)

    def _read(self, answer: dict[str, Any], count: int) -> Tensor:
        rows = answer["data"]
        if len(rows) != count:
            raise ValueError(f"{len(rows)} vectors for {count} texts")
        by_index = {row.get("index", position): row["embedding"] for position, row in enumerate(rows)}
        try:
            vectors = torch.tensor([by_index[index] for index in range(count)], dtype=torch.float32)
        except (RuntimeError, OverflowError) as error:
            raise ValueError(first_line(error)) from error
        if vectors.dim() != 2 or not vectors.numel():
            raise ValueError("embeddings that are not vectors")
        if self._width not in (None, vectors.size(1)):
            raise ValueError(f"vectors of width {vectors.size(1)} after vectors of width {self._width}")
        if not vectors.isfinite().all():
            raise ValueError("vectors with NaN or infinity")
        return vectors

    def describe(self) -> dict[str, Any]:
        return {"library": "server", "url": self._client.url, "model": self._model}
