"""Draws sweeps: heat maps of two parameters, and accuracy over cost."""

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from pipeline.config.sweep_tasks import rendering
from pipeline.config.sweeps import PARAMETERS
from pipeline.report.figures.figure import save_chart
from pipeline.report.sweep_results import HeatMap, Row, SweepResult, heat_map, pareto_front
from pointrend.wording import counted

LOG_FROM = 5.0  # the cost axis is logarithmic if the largest cost is at least this many times the smallest


def draw_heat_map(sweep: SweepResult, heat: HeatMap, path: Path) -> int:
    """Draws cells with their scores: the best one is framed, stopped trials are hatched, missing scores are marked.

    Returns the picture's width on the page.
    """
    figure, axes = plt.subplots(
        figsize=(2.6 + 1.15 * len(heat.columns), 1.5 + 0.75 * len(heat.rows)), layout="constrained"
    )
    values = [[cell.value if (cell := heat.cells.get((r, c))) else math.nan for c in heat.columns] for r in heat.rows]
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    best = sweep.best
    low, high = image.get_clim()
    for i, row in enumerate(heat.rows):
        for j, column in enumerate(heat.columns):
            cell = heat.cells.get((row, column))
            if cell is None:
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="0.93", edgecolor="white"))
                axes.text(j, i, "no\nscore", ha="center", va="center", color="0.45", fontsize=9)
                continue
            dark = high == low or (cell.value - low) / (high - low) < 0.6
            text = f"{cell.value:.1f}"
            if cell.status == "stopped":
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="//", edgecolor="white", lw=0))
                text += f"\nstopped\nat {cell.updates}"
            axes.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize=11 if cell.status == "finished" else 9,
                bbox=None
                if cell.status == "finished"
                else {"facecolor": tuple(image.to_rgba(np.asarray(cell.value))), "lw": 0, "pad": 1},
            )
            if (row, column) == (best[heat.row_name], best[heat.column_name]):
                axes.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00", lw=3))
    axes.set_xticks(range(len(heat.columns)), [_tick(heat.column_name, value) for value in heat.columns])
    axes.set_yticks(range(len(heat.rows)), [_tick(heat.row_name, value) for value in heat.rows])
    axes.set_xlabel(PARAMETERS[heat.column_name].label)
    axes.set_ylabel(PARAMETERS[heat.row_name].label)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=sweep.metric, shrink=0.9)
    width = save_chart(figure, path)
    plt.close(figure)
    return width


def _tick(name: str, value: float) -> str:
    if name != "steps":
        return f"{value:g}"
    side = rendering({"steps": value, "num_points": 1}).resolution
    return f"{value:g}\n({side}×{side})"


def draw_pareto(sweep: SweepResult, path: Path) -> int:
    """Draws accuracy over cost with the Pareto front; colours are the values of the heat map's first parameter.

    Returns the picture's width on the page.
    """
    trials = [t for t in sweep.trials if t.get(sweep.metric) is not None and t[sweep.shown.cost] is not None]
    points = [(trial[sweep.shown.cost], trial[sweep.metric]) for trial in trials]
    finished = [index for index, trial in enumerate(trials) if trial["status"] == "finished"]
    front = [finished[i] for i in pareto_front([points[i] for i in finished])]
    series = sweep.shown.heat_map[0] if sweep.shown.heat_map else None
    groups = sorted({trial[series] for trial in trials}) if series else [None]
    named = [name for name in sweep.parameters if name != series]

    figure, axes = plt.subplots(figsize=(7.6, 4.3), layout="constrained")
    axes.plot(
        *zip(*(points[i] for i in front), strict=True), color="0.35", lw=1.4, ls="--", zorder=1, label="Pareto front"
    )
    for number, group in enumerate(groups):
        members = [i for i, trial in enumerate(trials) if series is None or trial[series] == group]
        label = f"{PARAMETERS[series].symbol} = {group:g}" if series else "trial"
        for hollow in (False, True):
            chosen = [i for i in members if (trials[i]["status"] != "finished") == hollow]
            axes.scatter(
                [points[i][0] for i in chosen],
                [points[i][1] for i in chosen],
                s=52,
                facecolor="none" if hollow else f"C{number}",
                edgecolor=f"C{number}",
                label=None if hollow else label,
                zorder=2,
            )
    if len(finished) < len(trials):
        axes.scatter([], [], s=52, facecolor="none", edgecolor="0.35", label="stopped early")
    for i in front if series is None or len(trials) > 30 else range(len(trials)):
        on_front = i in front
        axes.annotate(
            # If only one parameter is written at the points, the legend names it.
            f"{trials[i][named[0]]:g}"
            if len(named) == 1
            else ", ".join(f"{PARAMETERS[name].symbol} {trials[i][name]:g}" for name in named),
            points[i],
            xytext=(-5, 5) if on_front else (7, 0),
            textcoords="offset points",
            ha="right" if on_front else "left",
            va="bottom" if on_front else "center",
            fontsize=8,
            fontweight="bold" if on_front else "normal",
        )
    costs = [cost for cost, _ in points]
    if min(costs) > 0 and max(costs) / min(costs) >= LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(unit="s" if sweep.shown.cost == "seconds" else ""))
    axes.margins(0.1, 0.16)
    axes.set_xlabel(sweep.cost_label)
    axes.set_ylabel(sweep.metric)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"at the points: {PARAMETERS[named[0]].symbol}" if len(named) == 1 else None
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), title=title)
    width = save_chart(figure, path)
    plt.close(figure)
    return width


@dataclass(frozen=True)
class SweepSection:
    """The page's section about a sweep; its files are PNGs in the report's folder."""

    name: str
    title: str
    notes: list[str]
    columns: list[str]
    rows: list[list[str]]  # the best trial first
    files: dict[str, int]  # the width of each on the page


def sweep_section(sweep: SweepResult, folder: Path) -> SweepSection:
    """Draws a sweep's pictures into a folder and writes the texts beside them."""
    files = {}
    heat = heat_map(sweep)
    if heat is not None:
        file = f"sweep_{sweep.name}_heat_map.png"
        files[file] = draw_heat_map(sweep, heat, folder / file)
    file = f"sweep_{sweep.name}_pareto.png"
    files[file] = draw_pareto(sweep, folder / file)
    order = sorted(sweep.trials, key=lambda t: (t["status"] != "finished", -(t.get(sweep.metric) or 0)))
    columns = [PARAMETERS[name].symbol for name in sweep.parameters]
    columns += [sweep.metric, *(["updates"] if sweep.about["kind"] == "training" else [])]
    columns += ["seconds", "multiply-adds", "status"]
    return SweepSection(sweep.name, sweep.shown.title, _notes(sweep), columns, [_cells(sweep, t) for t in order], files)


def _cells(sweep: SweepResult, trial: Row) -> list[str]:
    value, adds, seconds = (trial.get(name) for name in (sweep.metric, "multiply_adds", "seconds"))
    return [
        *(f"{trial[name]:g}" for name in sweep.parameters),
        "–" if value is None else f"{value:.2f}",
        *([str(trial["updates"])] if sweep.about["kind"] == "training" else []),
        "–" if seconds is None else f"{seconds:.3g}",
        "–" if adds is None else f"{adds / 1e6:,.1f} M",
        trial["status"],
    ]


def _notes(sweep: SweepResult) -> list[str]:
    """What the numbers mean."""
    about, best = sweep.about, sweep.best
    setting = ", ".join(f"{PARAMETERS[name].symbol} = {best[name]:g}" for name in sweep.parameters)
    notes = [f"Best: {setting}, with {sweep.metric} {best[sweep.metric]:.2f}."]
    if about["kind"] == "subdivision":
        notes.append(
            f"Run {about['run']} detects objects in the val images once, and each setting renders their masks; nothing "
            f"is trained. Seconds are the mask head's time for an image on {about['hardware']}: the median of up to "
            f"{counted(about['timed_images'], 'image')}."
        )
        return notes
    start = (
        f"the weights of {about['starts_from']} with a new point head" if about["starts_from"] else "initial weights"
    )
    judged = counted(about["val_images"], "val image") if about["val_images"] else "all val images"
    notes.append(
        f"Each trial trains {counted(about['updates'], 'update')} of {counted(about['batch_size'], 'image')} from "
        f"{start}, with one seed, and is evaluated on {judged}. Small differences are noise."
    )
    if about["early_stopping"]:
        notes.append(
            "ASHA stops trials that are behind others after the same number of updates. Their scores (hatched, hollow) "
            "are of fewer updates."
        )
    if lost := [trial["trial"] for trial in sweep.trials if trial["status"] == "diverged"]:
        notes.append(f"Diverged, no score: {'; '.join(lost)}.")
    notes.append(f"Seconds are the median time of an update, with trials side by side on {about['hardware']}.")
    return notes
