"""Draws one result of bench/reliability/run.sh as an SVG: bench/reliability/chart.py RESULT.json CHART.svg."""

import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first)
from report import COLUMNS, metric  # noqa: E402

# Colours that the colour-blind can tell apart (Okabe and Ito), and a shape each.
STYLES = {
    "none": ("#000000", "x"),
    "nginx": ("#009e73", "s"),
    "pass": ("#56b4e9", "P"),
    "haproxy": ("#0072b2", "D"),
    "envoy": ("#cc79a7", "^"),
    "envoy-tuned": ("#e69f00", "v"),
    "stent": ("#d55e00", "o"),
}
# Where a logarithmic axis begins: one request in 2000, about what one run of 2500 can show at all.
LEAST = 0.05


def label(row):
    # Results from before the rows of harm name no family.
    return f"harm: {row['what']}" if row.get("family") == "harm" else row["what"]


def main():
    source, target = sys.argv[1:]
    with open(source) as file:
        result = json.load(file)
    rows = [row for row in result["rows"] if row["shown"] != "goodput"]
    if not rows:
        print("no chart: only goodput was measured", file=sys.stderr)
        return
    # The same input gives the same file, and text stays text.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "stent", "font.family": "sans-serif", "font.size": 9})
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.33 * len(rows)), layout="constrained")
    columns = [name for name in COLUMNS if any(name in row["results"] for row in rows)]
    for place, name in enumerate(columns):
        color, marker = STYLES[name]
        # A little apart, or equal columns would hide each other.
        shift = (place - (len(columns) - 1) / 2) * 0.13
        shown = [
            (100 * metric(row["results"][name], row["shown"]), at + shift)
            for at, row in enumerate(rows)
            if name in row["results"]
        ]
        axes.plot(
            *zip(*shown), marker, color=color, label=COLUMNS[name],
            markersize=7 if name == "stent" else 5, linestyle="none", zorder=3 if name == "stent" else 2, clip_on=False,
        )
    axes.set_xscale("symlog", linthresh=LEAST, linscale=0.4)
    axes.set_xlim(0, 100)
    ticks = [0, 0.1, 1, 10, 100]
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.set_yticks(range(len(rows)), [label(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    of_harm = "\nharm: of the good requests alone" if any(row["shown"].startswith("good.") for row in rows) else ""
    axes.set_xlabel("requests that users see fail (0, then a logarithmic axis)" + of_harm)
    axes.grid(axis="x", color="#dddddd")
    for at in range(1, len(rows)):
        axes.axhline(at - 0.5, color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=len(COLUMNS), frameon=False)
    figure.patch.set_facecolor("white")
    figure.savefig(target, metadata={"Date": None, "Title": f"Stent's reliability bench, commit {result['commit']}"})
    print(f"drawn to {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
