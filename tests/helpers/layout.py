"""Whether the texts of a plot can be read."""

from itertools import combinations
from typing import Any


def check_layout(figure: Any) -> None:
    """Check that labels are inside the figure and do not overlap, and that no legend covers an axis."""
    figure.draw_without_rendering()
    size = figure.bbox
    for axes in figure.axes:
        assert axes.get_legend() is None
        panel = axes.get_window_extent()
        assert panel.width > 0.15 * size.width
        assert not any(panel.overlaps(legend.get_window_extent()) for legend in figure.legends)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            boxes = [tick.label1.get_window_extent() for tick in ticks if tick.label1.get_text()]
            assert boxes
            assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        box = axes.get_tightbbox()
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= size.x1
        assert box.y1 <= size.y1
