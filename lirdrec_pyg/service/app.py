"""The endpoints: what a request may hold, and how it is answered."""

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, get_type_hints

from lirdrec_pyg._version import __version__
from lirdrec_pyg.errors import ConfigError, DataError, LIRDRecError
from lirdrec_pyg.recommender.columns import title_column
from lirdrec_pyg.recommender.recommend import Fallback
from lirdrec_pyg.recommender.rules import Rules
from lirdrec_pyg.service.answers import as_json
from lirdrec_pyg.service.batches import Batches
from lirdrec_pyg.service.browse import browse
from lirdrec_pyg.service.config import ServiceConfig
from lirdrec_pyg.service.guard import FAILED, Guard, Message
from lirdrec_pyg.service.items import new_items
from lirdrec_pyg.service.live import LiveRun, Served
from lirdrec_pyg.service.metrics import Metrics

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger(__name__)

_THREADS = 4

# Errors of pydantic in words of users of the service.
_REASONS = {
    "missing": "it is missing",
    "extra_forbidden": "this request has no such field; they are listed at /docs",
    "too_short": "it is empty",
}

# Warnings of the request that a thread is busy with.
_caught: ContextVar[list[str] | None] = ContextVar("_caught", default=None)


def create_app(
    live: LiveRun, config: ServiceConfig, token: str | None = None, compared: LiveRun | None = None
) -> Guard:
    """Return the application, which any ASGI server runs.

    Args:
        live: the run to answer from.
        config: limits of a request, and how often to check for another run.
        token: token that every request must send, ``None`` if there is none.
        compared: run whose lists the page shows beside those of ``live``.

    Raises:
        ConfigError: if the folder of the images is not one.
    """
    from fastapi import Depends, FastAPI, Response
    from fastapi.security import HTTPBearer
    from prometheus_client import CONTENT_TYPE_LATEST
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

    metrics, pool = Metrics(), ThreadPoolExecutor(_THREADS, "compute")
    batches = Batches(pool)

    class Body(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)

    class Error(BaseModel):
        error: str

    IDs = list[int] | list[str]

    class Shown(Body):
        columns: list[str] | None = Field(None, description="Columns of the item catalog to add; by default the title.")

        def shown(self, served: Served) -> list[str]:
            return title_column(served.recommender) if self.columns is None else self.columns

    rules, hints = Rules(), get_type_hints(Rules)
    of_rules: dict[str, Any] = {
        name: (hints[name], Field(value, description=Rules.doc(name).replace("--", "")))
        for name, value in vars(rules).items()
    }
    Ruled: Any = create_model("Ruled", __base__=Shown, **of_rules)

    class Ranking(Ruled):
        k: int = Field(20, ge=1, le=config.max_k, description="Items per user.")
        exclude_seen: bool = Field(True, description="Whether to leave out all known interactions of the user.")
        candidates: IDs | None = Field(None, description="Items to choose from; by default all.")
        exclude: IDs | None = Field(None, description="Items to leave out.")
        fallback: Fallback = Field("skip", description="What to recommend to users without known interactions.")
        because: int = Field(0, ge=0, le=10, description="How many past items to name as reasons for each item.")

        def options(self, served: Served) -> dict[str, Any]:
            names = "k", "exclude_seen", "candidates", "exclude", "fallback", *vars(rules)
            return {"columns": self.shown(served), **{name: getattr(self, name) for name in names}}

    class Users(Ranking):
        users: IDs = Field(min_length=1, max_length=config.max_users)

    class History(Ranking):
        history: IDs | dict[str, IDs] = Field(
            min_length=1, max_length=config.max_users, description="Items of one new user, or items by user."
        )

    class Item(Shown):
        item: int | str
        k: int = Field(10, ge=1, le=config.max_k, description="Number of items.")
        by: str = Field("vectors", description="'vectors' for the learned representations, or a modality.")

    class Pair(Shown):
        user: int | str
        item: int | str
        nearest: int = Field(3, ge=0, le=config.max_k, description="Past items per modality.")

    class NewItem(Body):
        id: int | str
        features: dict[str, list[float]] = Field(min_length=1, description="A vector per modality.")

    class NewItems(Body):
        items: list[NewItem] = Field(min_length=1, max_length=config.max_users)

    async def computed(function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

    async def answer(served: Served, work: Callable[..., Mapping[str, Any]], *args: Any) -> Response:
        return Response(await computed(_answer, served, work, *args), media_type="application/json")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        lives = live, *([compared] if compared else [])
        for each in lives:
            metrics.loaded(each.current)
        with _warnings_sorted():
            watching = asyncio.gather(*(_watch(each, config.poll_seconds, metrics) for each in lives))
            yield
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        pool.shutdown()

    # For the page of the API; the guard checks the token before anything is read.
    bearer = [Depends(HTTPBearer(auto_error=False))] if token else []
    app = FastAPI(
        title="lirdrec-pyg",
        version=__version__,
        lifespan=lifespan,
        dependencies=bearer,
        redoc_url=None,
        responses={status: {"model": Error} for status in (401, 404, 413, 422)},
    )
    _handle_errors(app)

    def ranking(live: LiveRun, prefix: str = "") -> Callable[[Users], Awaitable[Response]]:
        """Add the endpoints that rank by a run, and return the one of users of the training."""

        @app.post(f"{prefix}/recommend")
        async def recommend(body: Users) -> Response:
            """Rank the best items per user of the training."""
            served = live.current

            def ranked(users: Any) -> Mapping[str, Any]:
                frame = served.recommender.recommend(users, **body.options(served))
                return {"recommendations": served.recommender.because(frame, body.because) if body.because else frame}

            if len(body.users) > 1:
                return await answer(served, ranked, body.users)
            key = served, body.model_dump_json(exclude={"users"})
            found = await batches.answer(key, body.users[0], lambda users: _answers(served, users, ranked))
            if isinstance(found, LIRDRecError):
                raise found
            return Response(found, media_type="application/json")

        @app.post(f"{prefix}/history")
        async def history(body: History) -> Response:
            """Rank the best items per user by their clicks since the training; users may be new."""
            served = live.current

            def ranked() -> Mapping[str, Any]:
                frame = served.recommender.recommend_for_history(body.history, **body.options(served))
                if body.because:
                    frame = served.recommender.because(frame, body.because, body.history)
                return {"recommendations": frame}

            return await answer(served, ranked)

        return recommend

    recommend = ranking(live)
    if compared is not None:
        ranking(compared, "/compared")

    @app.post("/similar")
    async def similar(body: Item) -> Response:
        """Rank the items most similar to an item."""
        served = live.current

        def found() -> Mapping[str, Any]:
            return {"similar": served.recommender.similar_items(body.item, body.k, body.by, body.shown(served))}

        return await answer(served, found)

    @app.post("/explain")
    async def explain(body: Pair) -> Response:
        """Split the score of an item for a user by the user's past items."""
        served = live.current

        def split() -> Mapping[str, Any]:
            return served.recommender.explain(body.user, body.item, body.nearest, body.shown(served))._asdict()

        return await answer(served, split)

    @app.post("/items")
    async def items(body: NewItems) -> Response:
        """Add items by their features. All later answers know them."""
        if config.workers > 1:
            raise ConfigError(
                "With several `workers`, each would know its own items only. Add them to the run instead."
            )
        ids, features = [item.id for item in body.items], [item.features for item in body.items]

        def grown() -> bytes:
            with _collected() as found:
                served = live.add(new_items(live.current.recommender, ids, features))
            return as_json({"run": served.name, "warnings": found, "added": len(ids)})

        return Response(await computed(grown), media_type="application/json")

    app.include_router(browse(live, compared, config))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that the service is up, and which run it serves."""
        return {"status": "ok", "run": live.current.name}

    @app.get("/metrics")
    async def measurements() -> Response:
        """Return measurements in the format of Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def direct(scope: Message, body: bytes) -> Response | None:
        """Answer a valid request for recommendations. FastAPI, which takes longer, explains all errors."""
        json_type = b"content-type", b"application/json"
        if (scope["method"], scope["path"]) == ("POST", "/recommend") and json_type in scope["headers"]:
            with suppress(ValidationError, LIRDRecError):
                return await recommend(Users.model_validate_json(body))
        return None

    return Guard(app, direct, app.openapi()["paths"], token, 1024 * config.max_body, metrics.answered)


async def _watch(live: LiveRun, seconds: float, metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            if await asyncio.to_thread(live.refresh):
                metrics.loaded(live.current)
                _log.info("Serving %s", live.current.name)
        except Exception as error:  # whatever is wrong with the new run, the old one still answers
            metrics.failed()
            _log.error("Still serving %s, since the new run is broken: %s", live.current.name, error)


def _handle_errors(app: "FastAPI") -> None:
    from fastapi import Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    @app.exception_handler(LIRDRecError)
    async def refuse(request: Request, error: LIRDRecError) -> Response:
        # Everywhere else, a DataError is about an ID that the run does not know.
        unknown = isinstance(error, DataError) and request.url.path != "/items"
        return JSONResponse({"error": str(error)}, 404 if unknown else 422)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(_request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": _message(error.errors())}, 422)

    @app.exception_handler(Exception)
    async def fail(_request: Request, _error: Exception) -> Response:  # and the guard logs it
        return JSONResponse({"error": FAILED}, 500)

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        reasons = {
            404: ": the endpoints are listed at /docs.",
            405: f": {request.url.path} takes {(error.headers or {}).get('Allow')}.",
        }
        text = error.detail + reasons.get(error.status_code, "")
        return JSONResponse({"error": text}, error.status_code, error.headers)


def _answer(served: Served, work: Callable[..., Mapping[str, Any]], *args: Any) -> bytes:
    """Return the result of ``work`` as JSON, with the name of the run and the warnings."""
    with _collected() as found:
        content = work(*args)
    return as_json({"run": served.name, "warnings": found, **content})


def _answers(
    served: Served, users: list[Any], ranked: Callable[[list[Any]], Mapping[str, Any]]
) -> dict[str, bytes | LIRDRecError]:
    """Return the answer for each of the users as if they had been asked for one by one."""
    if len(users := list(dict.fromkeys(users))) > 1:
        with suppress(LIRDRecError), _collected() as found:
            ((name, frame),) = ranked(users).items()
            parts = frame.partition_by("user", as_dict=True)
            if not found and len(parts) == len(users):
                return {str(user): _answer(served, dict, {name: part}) for (user,), part in parts.items()}
    answers: dict[str, bytes | LIRDRecError] = {}
    for user in users:
        try:
            answers[str(user)] = _answer(served, ranked, [user])
        except LIRDRecError as error:
            answers[str(user)] = error
    return answers


def _message(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return the last error of pydantic as a sentence, with all types that the field may have."""
    *_, place = places = [_place(error) for error in errors]
    if errors[-1]["type"] == "json_invalid" or not place:
        return "The body must be a JSON object, sent with the header 'Content-Type: application/json'."
    reasons = [_REASONS.get(error["type"], error["msg"]) for error, own in zip(errors, places) if own == place]
    first, *others = dict.fromkeys(reasons)
    return f"`{place}` is invalid: {' or '.join([first, *(x.removeprefix('Input should be ') for x in others)])}."


def _place(error: Mapping[str, Any]) -> str:
    """Return the field of an error, without the types that pydantic tried."""
    parts = [str(part) for part in error["loc"][1:] if "[" not in str(part)]
    return ".".join(parts[:-1] if parts[-1:] in (["int"], ["str"]) else parts)


@contextmanager
def _collected() -> Iterator[list[str]]:
    """Collect the warnings of this thread."""
    found: list[str] = []
    token = _caught.set(found)
    try:
        yield found
    finally:
        _caught.reset(token)


@contextmanager
def _warnings_sorted() -> Iterator[None]:
    """Pass warnings to the request that they are about, and log all others."""

    def sort(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        found = _caught.get()
        if found is None or category is not UserWarning:
            _log.warning("%s", message)
        elif str(message) not in found:
            found.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning, append=True)  # after those that ignore some
        warnings.showwarning = sort
        yield
