"""A self-consuming loop's charts: drift against generation with theory laid over it, final drift against the synthetic
share with its threshold, and the minority's share.

Standard training and SIMS differ by marker and fill as well as by colour, so the figures survive grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fairsims.files import read_json
from fairsims.report.figures import AFTER, BEFORE, TARGET, canvas, legend, panels

STYLES: dict[str, dict[str, Any]] = {
    "standard": {"color": BEFORE, "marker": "o", "markerfacecolor": "white"},
    "sims": {"color": AFTER, "marker": "s", "markerfacecolor": AFTER},
}
NAMES = {"standard": "standard", "sims": "SIMS"}
MEASURES = {
    "w2": "W2 to the data",
    "sliced_w2": "sliced W2 to the data",
    "second_moment_drift": "second-moment drift",
}
LEVELS = {"augmentation": "{:g} synthetic per real", "fresh": "α = {:g}", "synthetic": "synthetic only"}
Cells = Sequence[Mapping[str, Any]]


def collapse_figures(folder: Path) -> list[Path]:
    """Draw `drift.png` and, if there is something for them, `shares.png` and `threshold.png`; returns their paths."""
    result = read_json(folder / "collapse.json")
    drawn = [folder / "drift.png"]
    drift_figure(result, drawn[0])
    if minority(result) is not None:
        drawn.append(folder / "shares.png")
        shares_figure(result, drawn[-1])
    if result["settings"]["loop"] == "augmentation" and (result["threshold"] or len(result["settings"]["levels"]) > 2):
        drawn.append(folder / "threshold.png")
        threshold_figure(result, drawn[-1])
    return drawn


def minority(result: Mapping[str, Any]) -> str | None:
    """The measure of the smallest class's share in the first generation; None where all are alike or none is known."""
    measures = result["cells"][0]["measures"]
    shares = {name: values for name, values in measures.items() if name.startswith("share.")}
    first: dict[str, float] = {name: values[0]["mean"] for name, values in shares.items()}
    if not first or min(first.values()) > 0.8 * max(first.values()):
        return None
    return min(first, key=lambda name: first[name])


def headline_name(result: Mapping[str, Any]) -> str:
    """What the drift is measured in, for people."""
    return str(result["facts"].get("metric", MEASURES.get(result["headline"], result["headline"])))


def drift_figure(result: Mapping[str, Any], path: Path) -> None:
    """Drift against generation: mean over repeats with its 95% band, a panel per level, theory dashed."""
    curves, headline = result["theory"]["curves"], result["headline"]
    theory = {"gaussian": "no sampling noise", "kde": "closed form"}.get(result["settings"]["setting"])

    def draw(axes: Axes, cells: Cells) -> None:
        _curves(axes, cells, headline)
        for values in (curves[c["name"]] for c in cells if c["name"] in curves):
            look: dict[str, Any] = {"color": TARGET, "linestyle": (0, (4, 2)), "linewidth": 1, "zorder": 5}
            axes.plot(range(1, len(values) + 1), values, label=theory, **look)

    name, percents = headline_name(result), headline == "second_moment_drift"
    panels(path, _by_level(result), draw, x="generation", y=name, percents=percents)


def shares_figure(result: Mapping[str, Any], path: Path) -> None:
    """Share of the smallest class against generation, with its 95% band over repeats."""
    name = minority(result)
    assert name is not None
    label = f"share of {name.removeprefix('share.')}".replace("$", r"\$")
    panels(
        path,
        _by_level(result),
        lambda axes, cells: _curves(axes, cells, name),
        x="generation",
        y=label,
        percents=True,
    )


def threshold_figure(result: Mapping[str, Any], path: Path) -> None:
    """Last generation's drift against the synthetic share, with thresholds, their intervals and the published one."""
    with canvas(path, 3.4, width=5.6) as figure:
        axes: Axes = figure.subplots()
        for method in result["settings"]["methods"]:
            points = sorted(_final(result, method))
            style = STYLES[method]
            x, mean, low, high = zip(*points, strict=True)
            axes.plot(x, mean, linewidth=1, markersize=4, label=NAMES[method], **style)
            axes.vlines(x, low, high, color=style["color"], linewidth=1)
        for found in (result["threshold"] or {"found": []})["found"]:
            if found["share"] is None:
                continue
            color, own = STYLES[found["method"]]["color"], found["against"] == "own"
            # Bands of one method would hide each other: one takes the lower half, one the upper.
            half = {"ymax": 0.5} if own else {"ymin": 0.5}
            axes.axvspan(found["low"] or 0, found["high"] or 1, color=color, alpha=0.14, linewidth=0, **half)
            against = "own gen. 1" if own else "standard gen. 1"
            label = f"{NAMES[found['method']]} leaves {against}: {100 * found['share']:.0f}%"
            axes.axvline(found["share"], color=color, linestyle=":" if own else "-.", linewidth=1.4, label=label)
        if result["threshold"] and result["settings"]["setting"] == "gaussian":
            published = result["threshold"]["published_gaussian"]
            label = f"published {100 * published:.0f}%"
            axes.axvline(published, color=TARGET, linestyle=(0, (5, 3)), linewidth=1.2, label=label)
        axes.set_xlabel("synthetic share of the training set")
        axes.set_ylabel(f"{headline_name(result)}, generation {result['settings']['generations']}")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(bottom=0)
        sns.despine(ax=axes)
        legend(figure, [axes], ncols=2, handlelength=2.2)


def _final(result: Mapping[str, Any], method: str) -> list[tuple[float, float, float, float]]:
    """(share, mean, low, high) of the last generation: the run's own levels and those tried for the threshold."""
    found = []
    for cell in result["cells"]:
        if cell["method"] == method:
            last = cell["change"]["last"]
            found.append((cell["share"], last["mean"], last["low"], last["high"]))
    for point in (result["threshold"] or {"tried": []})["tried"]:
        if point["method"] == method:
            found.append((point["share"], point["last_mean"], point["last_low"], point["last_high"]))
    # Without repeats there is no interval.
    return [(s, m, m if low is None else low, m if high is None else high) for s, m, low, high in found]


def _by_level(result: Mapping[str, Any]) -> dict[str, Cells]:
    """The cells of each level by its title."""
    title = LEVELS[result["settings"]["loop"]]
    found: dict[str, list[Mapping[str, Any]]] = {title.format(v): [] for v in result["settings"]["levels"]}
    for cell in result["cells"]:
        found[title.format(cell["level"])].append(cell)
    return dict(found)


def _curves(axes: Axes, cells: Cells, name: str) -> None:
    """A measure against the generation for each method, with its 95% band where there are repeats."""
    for cell in cells:
        values, style, label = cell["measures"][name], STYLES[cell["method"]], NAMES[cell["method"]]
        kept = [(g, v) for g, v in enumerate(values, 1) if v["mean"] is not None]
        x, mean = [g for g, _ in kept], [v["mean"] for _, v in kept]
        axes.plot(x, mean, linewidth=1.3, markersize=3.5, markevery=max(1, len(x) // 12), label=label, **style)
        if all(v["low"] is not None for _, v in kept):
            low, high = ([v[end] for _, v in kept] for end in ("low", "high"))
            band = {"color": style["color"], "alpha": 0.2, "linewidth": 0}
            axes.fill_between(x, low, high, label="95% interval", **band)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
