"""The page for people, and the endpoints that it alone needs."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lirdrec_pyg.data import modalities
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.columns import title_column
from lirdrec_pyg.service.answers import as_json
from lirdrec_pyg.service.config import ServiceConfig
from lirdrec_pyg.service.live import LiveRun, Served
from lirdrec_pyg.service.shelf import Shelf

if TYPE_CHECKING:
    from fastapi import APIRouter

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_MAX_ROWS = 500
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PAGE_HEADERS = {
    **_HEADERS,
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY
    + "script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    + "require-trusted-types-for 'script'",
}
# An SVG that is opened by itself may style itself, but runs no script.
_IMAGE_HEADERS = {
    **_HEADERS,
    "Cache-Control": "private, max-age=600",
    "Content-Security-Policy": _POLICY + "style-src 'unsafe-inline'; sandbox",
}


def browse(live: LiveRun, compared: LiveRun | None, config: ServiceConfig) -> "APIRouter":
    """Return the page and its endpoints.

    FastAPI runs them in threads, so that none keeps a request for recommendations waiting.

    Raises:
        ConfigError: if the folder of the images is not one.
    """
    from fastapi import APIRouter, Header, Query, Response

    router = APIRouter()
    shelves: WeakKeyDictionary[Served, Shelf] = WeakKeyDictionary()

    def current() -> tuple[Served, Shelf]:
        served = live.current
        if served not in shelves:
            shelves[served] = Shelf(served.recommender, config.image_root)
        return served, shelves[served]

    current()  # raises errors

    def found(served: Served, **content: Any) -> Response:
        return Response(as_json({"run": served.name, **content}), media_type="application/json")

    text = Query("", description="ID, or words to search for in any case; by default everything is listed.")
    start = Query(0, ge=0, description="How many to skip.")
    k = Query(50, ge=1, le=_MAX_ROWS, description="How many to return.")

    user = Query(None, description="List only what this user interacted with.")
    columns = Query(None, description="Columns of the item catalog to add; by default the title.")

    @router.get("/about")
    def about() -> Response:
        """Tell what the run is, what it can do, and which columns of the items there are to filter by."""
        served, shelf = current()
        catalog = served.recommender.dataset.catalog
        return found(
            served,
            **_abilities(served.recommender),
            users=len(served.recommender.users),
            items=len(served.recommender.items),
            modalities=modalities(served.recommender.graph),
            images=catalog is not None and catalog.picture is not None,
            columns=shelf.columns,
            max_k=config.max_k,
            compared=compared and {"run": compared.current.name, **_abilities(compared.current.recommender)},
        )

    @router.get("/catalog")
    def catalog(
        text: str = text,
        user: str | None = user,
        start: int = start,
        k: int = k,
        columns: list[str] | None = columns,
    ) -> Response:
        """Search the items by ID or by words in the title; the most popular ones come first."""
        served, shelf = current()
        columns = title_column(served.recommender) if columns is None else columns
        return found(served, items=shelf.items(text, user, start, k, columns))

    @router.get("/users")
    def users(text: str = text, start: int = start, k: int = k) -> Response:
        """Search the users by ID."""
        served, shelf = current()
        return found(served, users=shelf.users(text, start, k))

    @router.get("/image", response_class=Response, responses={204: {"description": "The item has no image."}})
    def image(
        item: str,
        width: int = Query(320, ge=16, le=1024, description="Largest width in pixels."),
        if_none_match: str = Header(""),
    ) -> Response:
        """Return a small image of an item."""
        served, shelf = current()
        image = shelf.image(int(served.recommender.item_positions([item])[0]), width)
        if image is None:
            return Response(status_code=204, headers=_IMAGE_HEADERS)
        headers = {**_IMAGE_HEADERS, "ETag": f'"{hashlib.sha256(image.content).hexdigest()[:32]}"'}
        if headers["ETag"] in if_none_match:
            return Response(status_code=304, headers=headers)
        return Response(image.content, media_type=image.media_type, headers=headers)

    for path, (name, media_type) in _FILES.items():
        page = Response((Path(__file__).parent / "page" / name).read_bytes(), 200, _PAGE_HEADERS, media_type)
        router.add_api_route(path, lambda page=page: page, include_in_schema=False)
    return router


def _abilities(recommender: Recommender) -> dict[str, Any]:
    config, catalog = recommender.model_config, recommender.dataset.catalog
    return {
        "model": config.model,
        "title": next(iter(title_column(recommender)), None),
        "catalog": [] if catalog is None else catalog.frame.columns,
        "can": {
            "vectors": recommender.compares_items,
            "because": config.supports_explanations,
            "history": config.supports_new_users,
            "diversity": find_spec("pyversity") is not None,
        },
    }
