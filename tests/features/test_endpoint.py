from typing import Any

import pytest
import torch
from openai_server import Fault, OpenAIServer, embedding_of, error

from lirdrec_pyg.features.endpoint import EndpointEncoder
from lirdrec_pyg.features.openai_client import MAX_FAILURES, OpenAIClient, ServerError

TEXTS = ["a red chair", "a lamp", "glass"]


@pytest.fixture
def encoder(server: OpenAIServer) -> EndpointEncoder:
    return EndpointEncoder(OpenAIClient(server.url), server.model)


def encoded(encoder: EndpointEncoder, texts: list[str]) -> torch.Tensor:
    return torch.stack(encoder.encode(texts))  # type: ignore[arg-type]


def rows(*vectors: Any) -> list[dict[str, Any]]:
    return [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]


def test_rows_are_ordered_by_index(encoder: EndpointEncoder, server: OpenAIServer) -> None:
    vectors = encoded(encoder, TEXTS)  # the server responds in reverse order
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, torch.tensor([embedding_of(text) for text in TEXTS]))
    (seen,) = server.seen
    assert seen.body == {"model": server.model, "input": TEXTS, "encoding_format": "float"}
    server.embeddings = lambda texts: [{"embedding": [len(text)] * 6} for text in texts]  # without an index
    assert encoded(encoder, TEXTS)[:, 0].tolist() == [11, 6, 5]


def test_texts_of_a_malformed_response_are_sent_one_by_one(encoder: EndpointEncoder, server: OpenAIServer) -> None:
    right = server.embeddings
    for name, answer in {
        "too few": rows([1, 2], [3, 4]),
        "too many": rows([1, 2], [3, 4], [5, 6], [7, 8]),
        "an index twice": [{"index": 0, "embedding": [1, 2]}] * 3,
        "an index beyond": [{"index": i, "embedding": [1, 2]} for i in (0, 1, 3)],
        "ragged": rows([1, 2], [3], [5, 6]),
        "NaN": rows([1] * 6, [2] * 6, [float("nan")] * 6),
        "infinity": rows([1] * 6, [2] * 6, [float("inf")] * 6),
        "beyond 32 bits": rows([1] * 6, [2] * 6, [1e39] * 6),
        "a long integer": rows([1, 2], [3, 4], [5, 10**400]),
        "empty": rows([], [], []),
        "nested": rows([[1]], [[2]], [[3]]),
        "texts": rows("AAAA", "AAAA", "AAAA"),
        "nothing": rows(None, None, None),
        "no rows": None,
        "no embeddings": [{"index": 0}] * 3,
        "a bare list": [[1, 2]] * 3,
        "another width": rows([1, 2], [3, 4], [5, 6]),
    }.items():
        encoder.encode(TEXTS[:1])
        # Asked for one by one, the texts get their vectors.
        server.embeddings = lambda texts, answer=answer: answer if len(texts) == 3 else right(texts)
        assert torch.equal(encoded(encoder, TEXTS), torch.tensor([embedding_of(text) for text in TEXTS])), name
        server.embeddings = right


def test_requests_of_a_batch_are_sent_together(server: OpenAIServer) -> None:
    server.seconds = 0.1
    encoder = EndpointEncoder(OpenAIClient(server.url, concurrency=3), server.model, batch_size=2)
    assert encoder.batch_size == 6
    texts = [str(number) for number in range(11)]
    assert torch.equal(encoded(encoder, texts), torch.tensor([embedding_of(text) for text in texts]))
    assert sorted(len(seen.body["input"]) for seen in server.seen) == [1, 2, 2, 2, 2, 2]
    assert server.most_at_once == 3


@pytest.mark.parametrize("fault", [error(400, "too long"), error(413, "too long"), error(500)])
def test_texts_that_fail_are_found_and_the_others_embedded(
    fault: Fault, encoder: EndpointEncoder, server: OpenAIServer
) -> None:
    for positions in ([5], [2, 15], [*range(16)]) if fault.status == 400 else ([7],):
        texts = [f"{'too long' if position in positions else 'a chair'} {position}" for position in range(16)]
        server.faults = lambda seen, before: fault if any("too long" in text for text in seen.body["input"]) else None
        for position, answer in enumerate(encoder.encode(texts)):
            if position in positions:
                assert str(fault.status) in str(answer)
            else:
                assert torch.equal(answer, torch.tensor(embedding_of(texts[position])))


@pytest.mark.parametrize(("status", "works_at_first"), [(400, False), (500, False), (500, True)])
def test_a_server_that_embeds_nothing_ends_the_work(
    status: int, works_at_first: bool, encoder: EndpointEncoder, server: OpenAIServer
) -> None:
    if works_at_first:
        encoder.encode(TEXTS)
    server.faults = lambda seen, before: error(status, "no embeddings here")
    with pytest.raises(ServerError, match=r"no embeddings here.*texts in a row"):
        encoder.encode([str(number) for number in range(100)])


def test_refused_texts_do_not_end_the_work_of_a_server_that_works(
    encoder: EndpointEncoder, server: OpenAIServer
) -> None:
    encoder.encode(TEXTS)
    server.faults = lambda seen, before: error(400, "too long")
    answers = encoder.encode([str(number) for number in range(2 * MAX_FAILURES)])
    assert all("too long" in str(answer) for answer in answers)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_server_that_cannot_be_used_ends_the_work(
    status: int, encoder: EndpointEncoder, server: OpenAIServer
) -> None:
    server.faults = lambda seen, before: error(status)
    with pytest.raises(ServerError, match=str(status)):
        encoder.encode(TEXTS)
    assert len(server.seen) == 1


def test_the_description_has_no_key(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    described = EndpointEncoder(OpenAIClient(server.url), "tiny-embedding").describe()
    assert described == {"library": "server", "url": server.url, "model": "tiny-embedding"}
