"""Charts that a page draws without a network, each with its numbers as text."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

if TYPE_CHECKING:
    import altair as alt
    from markupsafe import Markup

MUTED = "#8a8f9c"
# Each stands out from white and from black.
PALETTE = (
    *("#3f7fd1", "#d9772b", MUTED, "#2f9e6e", "#b35fb8"),
    *("#d14f5f", "#98882c", "#2f9faa", "#a9745a", "#7c74d6"),
)
# From few to many.
RAMP = ("#7f9fc4", "#d9772b")

# Charts are drawn in the colors of the text around them, and again if these change.
_SCRIPT = """
const palette = PALETTE;
const escaped = value => String(value).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
const draw = figure => {
  const {color, fontFamily} = getComputedStyle(figure);
  const text = {labelColor: color, titleColor: color, labelFont: fontFamily, titleFont: fontFamily, labelFontSize: 12,
    titleFontSize: 12};
  const axis = {...text, titleFontWeight: 500, gridColor: color, gridOpacity: 0.12, domainColor: color,
    domainOpacity: 0.4, tickColor: color, tickOpacity: 0.4};
  const columns = Math.max(2, Math.floor(figure.clientWidth / 190));
  const config = {background: "transparent", view: {stroke: null}, axis, rule: {color},
    text: {color, font: fontFamily, fontSize: 12}, mark: {color: palette[0]}, range: {category: palette},
    legend: {...text, titleFontWeight: 500, orient: "bottom", labelLimit: 160, columns}};
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const options = {actions: false, renderer: figure.dataset.renderer, config,
    tooltip: {sanitize: escaped, theme: dark ? "dark" : "light"}};
  return vegaEmbed(figure.querySelector(".plot"), spec, options);
};
const figures = [...document.querySelectorAll("figure.chart")];
// One at a time, so that the page can be scrolled meanwhile; all of them, so that it can be printed.
figures.reduce((drawn, figure) => drawn.then(() => new Promise(done => setTimeout(done))).then(() => draw(figure)),
  Promise.resolve());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figures.forEach(draw));
"""


@dataclass(frozen=True)
class Chart:
    """A chart that renders itself in a template."""

    plot: "alt.TopLevelMixin"  # as wide as its container
    label: str  # what it shows, for those who do not see it
    table: pl.DataFrame | None = None  # its numbers, to unfold below it; None for a chart of very many
    height: int = 260  # in pixels, reserved until it is drawn
    renderer: str = "svg"  # or "canvas" for very many marks

    def spec(self) -> dict[str, object]:
        """Return the Vega-Lite specification."""
        return {**self.plot.to_dict(), "description": self.label, "autosize": {"type": "fit-x", "contains": "padding"}}

    def __html__(self) -> "Markup":
        from jinja2.utils import htmlsafe_json_dumps
        from markupsafe import Markup

        numbers = Markup("")
        if self.table is not None:
            numbers = Markup("<details><summary>Numbers</summary>{}</details>").format(Table(self.table))
        return Markup(
            '<figure class="chart" data-renderer="{}"><div class="plot" style="width:100%;min-height:{}px"></div>'
            '<script type="application/json">{}</script>{}</figure>'
        ).format(self.renderer, self.height, htmlsafe_json_dumps(self.spec()), numbers)


class Table(NamedTuple):
    """A table that renders itself in a template; the first column names the rows."""

    frame: pl.DataFrame

    def __html__(self) -> "Markup":
        from markupsafe import Markup

        head = _joined('<th scope="col">{}</th>', self.frame.columns)
        rows = (
            Markup('<th scope="row">{}</th>{}').format(number(name), _joined("<td>{}</td>", map(number, values)))
            for name, *values in self.frame.iter_rows()
        )
        return Markup(
            '<div class="scroll" tabindex="0"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
        ).format(head, _joined("<tr>{}</tr>", rows))


def _joined(form: str, values: Iterable[object]) -> "Markup":
    from markupsafe import Markup

    return Markup("").join(Markup(form).format(value) for value in values)


def number(value: object) -> str:
    """Format an entry of a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def script() -> "Markup":
    """Return the script of the end of a page with charts: Vega, Vega-Lite and Vega-Embed, and what draws the charts."""
    import vl_convert
    from markupsafe import Markup

    code = vl_convert.javascript_bundle(_SCRIPT.replace("PALETTE", str([*PALETTE])))
    return Markup('<script type="module">{}</script>').format(Markup(code.replace("</script", "<\\/script")))
