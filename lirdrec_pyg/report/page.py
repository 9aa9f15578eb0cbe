"""The page of the report: one HTML file that needs no network."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from lirdrec_pyg._version import __version__
from lirdrec_pyg.errors import ConfigError, check_extra
from lirdrec_pyg.files import whole_file
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.images import ItemImages
from lirdrec_pyg.report import branches, charts, comparison, data, item_map, items, metrics, training, unclicked, users
from lirdrec_pyg.report.gallery import Gallery
from lirdrec_pyg.report.lead import lead
from lirdrec_pyg.report.section import Section


def check_packages() -> None:
    """Raise :class:`ConfigError` unless the packages that a report needs are installed."""
    check_extra("report", "jinja2", "altair", "vl_convert", "PIL", purpose="A report")


def check_report(out: Path) -> None:
    """Raise :class:`ConfigError` if a report cannot be written to ``out``; change nothing."""
    check_packages()
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"Cannot write {out}. Pass a file in an existing folder as `out`.")


def write_report(recommenders: Sequence[Recommender], out: str | Path, image_root: str | Path | None = None) -> None:
    """Write a report as one HTML file of less than 8 MB, which replaces an earlier one once it is complete.

    Args:
        recommenders: one, or several that were trained on the same data; the first is described, and the others are
            compared with it.
        out: file to write.
        image_root: folder that the paths of the images in the item catalog are relative to; by default that of the
            catalog.

    Raises:
        ConfigError: if packages are missing, ``out`` is not in a folder, ``image_root`` is not a folder, or the runs
            have different data.
        RunError: if the file cannot be written.
    """
    out = Path(out)
    check_report(out)
    comparison.check_comparable(recommenders)
    page = _page(recommenders, image_root)
    with whole_file(out) as unfinished:
        unfinished.write_text(page, "utf-8")


def _page(recommenders: Sequence[Recommender], image_root: str | Path | None) -> str:
    from jinja2 import Environment, PackageLoader

    first, runs = recommenders[0], _names(recommenders)
    gallery = Gallery(first, image_root)
    makers: dict[str, Callable[[], Section | None]] = {
        "comparison": partial(comparison.section, recommenders, runs, gallery),
        "people": partial(users.section, recommenders, gallery),
        "metrics": partial(metrics.section, first),
        "items": partial(items.section, first, gallery),
        "unclicked items": partial(unclicked.section, first, gallery),
        "map": partial(item_map.section, first, ItemImages(first, image_root)),
        "branches": partial(branches.section, first),
        "training": partial(training.section, first),
        "data": partial(data.section, first),
    }
    sections = {}
    with tqdm(makers.items(), unit="section", disable=None) as bar:
        for name, make in bar:
            bar.set_description(name)
            sections[name] = make()
    measured = sections["metrics"]
    assert measured is not None
    environment = Environment(
        loader=PackageLoader("lirdrec_pyg.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    shared = {"runs": runs, "pictures": gallery.pictures, "shape": gallery.shape}
    return environment.get_template("page.html").render(
        lead=lead(first, measured),
        sections=[
            (section, environment.get_template(section.template).render({**shared, **section.content}))
            for section in sections.values()
            if section is not None
        ],
        script=charts.script(),
        version=__version__,
        **shared,
    )


def _names(recommenders: Sequence[Recommender]) -> list[str]:
    """Return the names of the folders, or their paths where they have the same name, or the names of the models."""
    paths = [recommender.path for recommender in recommenders]
    count = Counter(path and path.name for path in paths)
    return [
        recommender.model_config.model if path is None else path.name if count[path.name] == 1 else str(path)
        for recommender, path in zip(recommenders, paths)
    ]
