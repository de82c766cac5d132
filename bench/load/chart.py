"""Draws one result of bench/load/run.sh as an SVG: bench/load/chart.py RESULT.json CHART.svg."""

import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first)
from rows import BY_NAME, COLUMNS  # noqa: E402

# As in the chart of the reliability bench.
STYLES = {
    "tcp": ("#999999", "|"),
    "nginx": ("#009e73", "s"),
    "haproxy": ("#0072b2", "D"),
    "envoy": ("#cc79a7", "^"),
    "stent": ("#d55e00", "o"),
}


def main():
    source, target = sys.argv[1:]
    with open(source) as file:
        result = json.load(file)
    # Each row as parts of NGINX's figure: figures of different rows are not comparable.
    rows = [row for row in result["rows"] if row["kind"] == "cpu" and row["median"].get("nginx")]
    if not rows:
        print("no chart: no row of CPU time with NGINX in it", file=sys.stderr)
        return
    # The same input gives the same file, and text stays text.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "stent", "font.family": "sans-serif", "font.size": 9})
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.36 * len(rows)), layout="constrained")
    for name, (color, marker) in STYLES.items():
        points = [(row["median"][name] / row["median"]["nginx"], at) for at, row in enumerate(rows) if name in row["median"]]
        if not points:
            continue
        axes.plot(
            *zip(*points), marker, color=color, label=COLUMNS[name], linestyle="none", clip_on=False,
            markersize=8 if name in ("stent", "tcp") else 5, zorder=3 if name == "stent" else 2,
        )
    for at, row in enumerate(rows):
        if most := BY_NAME[row["row"]].targets.get("nginx"):
            axes.plot([most], [at], marker="3", color="#d55e00", markersize=9, linestyle="none", zorder=1)
    axes.plot([], [], marker="3", color="#d55e00", linestyle="none", markersize=9, label="aim for Stent")
    axes.set_xscale("log", base=2)
    ticks = [0.125, 0.25, 0.5, 1, 2, 4]
    shares = [value / row["median"]["nginx"] for row in rows for name, value in row["median"].items() if name in STYLES]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.set_xlim(min([0.25, *shares]) * 0.9, max([2, *shares]) * 1.1)
    axes.set_yticks(range(len(rows)), [row["what"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("CPU time per request, as a multiple of NGINX's (less is better)")
    axes.grid(axis="x", color="#dddddd")
    axes.axvline(1, color="#009e73", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=len(STYLES) + 1, frameon=False)
    figure.patch.set_facecolor("white")
    figure.savefig(target, metadata={"Date": None, "Title": f"Stent's load bench, commit {result['commit']}"})
    print(f"drawn to {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
