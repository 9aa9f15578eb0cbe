from collections.abc import Iterator
from typing import Any

import pytest
import torch
from openai_server import Fault, OpenAIServer, embedding_of, error, openai_server

from lirdrec_pyg.features import chat
from lirdrec_pyg.features.chat import Server, ServerError
from lirdrec_pyg.features.encoder import UnusableEntries
from lirdrec_pyg.features.endpoint import EndpointEncoder

TEXTS = ["a red chair", "a lamp", "glass"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(chat, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(chat, "_LONGEST_PAUSE", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with openai_server() as running:
        running.model = "tiny-embedding"
        yield running


@pytest.fixture
def encoder(server: OpenAIServer) -> EndpointEncoder:
    return EndpointEncoder(Server(server.url), "tiny-embedding")


def rows(*vectors: Any) -> list[dict[str, Any]]:
    return [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]


def test_rows_are_ordered_by_index(encoder: EndpointEncoder, server: OpenAIServer) -> None:
    vectors = encoder.encode(TEXTS)  # the server answers in reverse order
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, torch.tensor([embedding_of(text) for text in TEXTS]))
    (seen,) = server.seen
    assert seen.body == {"model": "tiny-embedding", "input": TEXTS, "encoding_format": "float"}


def test_rows_without_index_are_taken_in_order(encoder: EndpointEncoder, server: OpenAIServer) -> None:
    server.embeddings = lambda texts: [{"embedding": [len(text)]} for text in texts]
    assert encoder.encode(TEXTS).tolist() == [[11], [6], [5]]


@pytest.mark.parametrize(
    "answer",
    {
        "too few": rows([1, 2], [3, 4]),
        "too many": rows([1, 2], [3, 4], [5, 6], [7, 8]),
        "an index twice": [{"index": 0, "embedding": [1, 2]}] * 3,
        "an index beyond": [{"index": i, "embedding": [1, 2]} for i in (0, 1, 3)],
        "ragged": rows([1, 2], [3], [5, 6]),
        "not a number": rows([1, 2], [3, 4], [5, float("nan")]),
        "without bound": rows([1, 2], [3, 4], [5, float("inf")]),
        "beyond 32 bits": rows([1, 2], [3, 4], [5, 1e39]),
        "an endless integer": rows([1, 2], [3, 4], [5, 10**400]),
        "empty": rows([], [], []),
        "nested": rows([[1]], [[2]], [[3]]),
        "texts": rows("AAAA", "AAAA", "AAAA"),
        "nothing": rows(None, None, None),
        "no rows": None,
        "no embeddings": [{"index": 0}] * 3,
        "a bare list": [[1, 2]] * 3,
    }.items(),
    ids=lambda pair: pair[0],
)
def test_a_wrong_answer_is_asked_for_again_and_then_named(
    answer: tuple[str, Any], encoder: EndpointEncoder, server: OpenAIServer
) -> None:
    right = server.embeddings
    server.embeddings = lambda texts: answer[1] if len(server.seen) % 6 else right(texts)
    assert encoder.encode(TEXTS).shape == (3, 6)
    assert len(server.seen) == 6
    server.embeddings = lambda texts: answer[1]
    with pytest.raises(ServerError, match="malformed"):
        encoder.encode(TEXTS)


def test_vectors_of_another_width_than_before_are_wrong(encoder: EndpointEncoder, server: OpenAIServer) -> None:
    encoder.encode(TEXTS)
    server.embeddings = lambda texts: rows(*[[1.0, 2.0]] * len(texts))
    with pytest.raises(ServerError, match="width 2, where those before had 6"):
        encoder.encode(TEXTS)


def test_a_batch_that_is_refused_is_sent_text_by_text(encoder: EndpointEncoder, server: OpenAIServer) -> None:
    server.faults = lambda seen, before: error(400, "too many tokens") if len(seen.body["input"]) > 1 else None
    assert torch.equal(encoder.encode(TEXTS), torch.tensor([embedding_of(text) for text in TEXTS]))


def test_requests_of_a_batch_are_under_way_together(server: OpenAIServer) -> None:
    server.seconds = 0.1
    encoder = EndpointEncoder(Server(server.url, concurrency=3), "tiny-embedding", batch_size=2)
    assert encoder.batch_size == 6
    texts = [str(number) for number in range(11)]
    assert torch.equal(encoder.encode(texts), torch.tensor([embedding_of(text) for text in texts]))
    assert sorted(len(seen.body["input"]) for seen in server.seen) == [1, 2, 2, 2, 2, 2]
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("fault", "places"),
    [
        *((error(400, "too long"), places) for places in ([5], [0, 1], [2, 15], [*range(15)], [*range(16)])),
        *((fault, [7]) for fault in (error(413, "too long"), error(422, "too long"), error(500))),
    ],
)
def test_texts_that_are_refused_are_found_and_the_others_embedded(
    fault: Fault, places: list[int], encoder: EndpointEncoder, server: OpenAIServer
) -> None:
    texts = [f"{'too long' if place in places else 'a chair'} {place}" for place in range(16)]
    server.faults = lambda seen, before: fault if any("too long" in text for text in seen.body["input"]) else None
    with pytest.raises(UnusableEntries) as refused:
        encoder.encode(texts)
    assert [*refused.value.reasons] == places
    assert all(str(fault.status) in reason for reason in refused.value.reasons.values())
    for place, row in enumerate(refused.value.vectors):
        assert place in places or torch.equal(row, torch.tensor(embedding_of(texts[place])))
    if len(places) == 1:  # halves of 16, 8, 4, 2 and 1, and a plain word
        assert len({str(seen.body) for seen in server.seen}) == 1 + 2 * 4 + 1


@pytest.mark.parametrize("fault", [error(400, "no embeddings here"), error(422, "no embeddings here")])
def test_a_server_that_refuses_everything_ends_the_work_at_once(
    fault: Fault, encoder: EndpointEncoder, server: OpenAIServer
) -> None:
    server.faults = lambda seen, before: fault
    with pytest.raises(ServerError, match=r"no embeddings here.*no text will fare better"):
        encoder.encode(TEXTS)
    assert len(server.seen) == 2


def test_no_text_is_given_up_for_a_server_that_goes_down_meanwhile(
    encoder: EndpointEncoder, server: OpenAIServer
) -> None:
    def faults(seen: object, before: int) -> Fault | None:
        is_plain_word = seen.body["input"] == ["chair"]  # type: ignore[attr-defined]
        return None if is_plain_word and len(server.seen) < 10 else error(500)

    server.faults = faults
    with pytest.raises(ServerError, match="no text will fare better"):
        encoder.encode(TEXTS)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_what_no_text_would_survive_ends_the_work_at_once(
    status: int, encoder: EndpointEncoder, server: OpenAIServer
) -> None:
    encoder.encode(TEXTS)
    server.faults = lambda seen, before: error(status)
    with pytest.raises(ServerError, match=str(status)):
        encoder.encode(["other", *TEXTS])
    assert len(server.seen) == 2


def test_an_unknown_model_is_named_at_once(server: OpenAIServer) -> None:
    with pytest.raises(ServerError, match="'other'"):
        EndpointEncoder(Server(server.url), "other").encode(TEXTS)
    assert len(server.seen) == 1


def test_the_description_says_where_vectors_come_from_but_no_key(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    described = EndpointEncoder(Server(server.url), "tiny-embedding").describe()
    assert described == {"library": "server", "url": server.url, "model": "tiny-embedding"}
