"""What a run says: ratios, targets, and the tables in Markdown for docs/measured/cost.md."""

from rows import COLUMNS

# The proxies that Stent is held against, in the order of the columns.
AGAINST = ("nginx", "haproxy", "envoy", "tcp")


def judge(row, median, peers):
    """The ratio of Stent, or of the last of `peers`, to each of the others, and which of Stent's targets it missed."""
    subject = "stent" if "stent" in peers else peers[-1]
    if subject not in median:
        return {"ratio": {}, "missed": []}
    ratio = {name: round(median[subject] / value, 3) for name, value in median.items() if name != subject and value > 0}
    if subject != "stent":
        return {"ratio": ratio, "missed": []}
    missed = [f"{ratio[name]} of {COLUMNS[name]}'s, not {most}" for name, most in row.targets.items() if ratio.get(name, 0) > most]
    if row.most is not None and median[subject] > row.most:
        missed.append(f"{median[subject]}, not {row.most}")
    # Kept with the figures, so that a result can be read without the program.
    return {"ratio": ratio, "missed": missed, "targets": dict(row.targets) if row.most is None else {"most": row.most}}


def markdown(result):
    settings, machine = result["settings"], result["machine"]
    parts = []
    by_kind = {kind: [row for row in result["rows"] if row["kind"] == kind] for kind in ("cpu", "memory", "latency", "scale")}
    if by_kind["cpu"]:
        parts += [
            f"CPU microseconds per request of the proxy's own threads; median of {settings['rounds']} interleaved rounds of"
            f" {settings['seconds']} s. Lower is better. In brackets what Stent must show; **bold** where it does not.",
            "",
            *table(by_kind["cpu"], settings["peers"], 1),
            "",
        ]
    if by_kind["memory"]:
        parts += ["Memory, of a new process each time:", "", *table(by_kind["memory"], settings["peers"], 1), ""]
    for row in by_kind["latency"]:
        parts += latency(row)
    for row in by_kind["scale"]:
        parts += scale(row)
    void = [f"{row['row']} of {COLUMNS.get(name, name)}: {why}" for row in result["rows"] for name, why in row["void"].items()]
    parts += [
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; {', '.join(result['versions'].values())};"
        f" commit {result['commit']}; {result['date']}; {round(result['seconds'] / 60)} minutes."
        + (f" Void: {'; '.join(void)}." if void else " No request failed.")
    ]
    return "\n".join(parts)


def table(rows, peers, digits):
    """Figures, and Stent's as a part of the others'."""
    subject = "stent" if "stent" in peers else peers[-1]
    shown = [name for name in AGAINST if name in peers] + [subject]
    against = [name for name in shown if name != subject]
    head = ["work", *(COLUMNS[name] for name in shown), *(f"of {COLUMNS[name]}" for name in against)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["what"]]
        for name in shown:
            text = "void" if name in row["void"] else figure(row["median"].get(name), digits)
            most = row.get("targets", {}).get("most")
            cells.append(with_target(text, row["median"].get(name), most) if name == subject else text)
        for name in against:
            ratio, most = row["ratio"].get(name), row.get("targets", {}).get(name)
            # A ratio of bytes that rounding has made is no figure.
            cells.append("" if row["kind"] == "memory" else with_target(figure(ratio, 2), ratio, most))
        lines.append(f"| {' | '.join(cells)} |")
    if all(row["kind"] == "memory" for row in rows):
        lines = [line.rsplit(" |", len(against) + 1)[0] + " |" if index != 1 else "|---" * (len(shown) + 1) + "|" for index, line in enumerate(lines)]
    return lines


def figure(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def with_target(text, value, most):
    if most is None or value is None:
        return text
    text = f"{text} [≤ {most:.2f}]"
    return f"**{text}**" if value > most else text


def latency(row):
    alone = row["median"].get("backend alone")
    lines = [
        f"Latency in microseconds at {row['per_second']} requests per second, half of what the slowest could do, over"
        f" {row['connections']} connections, each request counted from when it was due; in brackets what the proxy adds:",
        "",
        "| | p50 | p99 | p99.9 |",
        "|---|---|---|---|",
    ]
    for name, found in row["median"].items():
        cells = []
        for key in ("p50_us", "p99_us", "p999_us"):
            added = f" ({found[key] - alone[key]:+.0f})" if alone and name != "backend alone" else ""
            cells.append(f"{found[key]:.0f}{added}")
        lines.append(f"| {COLUMNS.get(name, name)} | {' | '.join(cells)} |")
    return [*lines, ""]


def scale(row):
    ratio = row.get("ratio", {}).get("stent")
    if ratio is None:
        return []
    one, two = row["median"]["stent"], row["median"]["stent-2"]
    text = f"Two workers spend {two:.1f} µs on a request where one spends {one:.1f}: {with_target(f'{ratio:.2f}', ratio, 1.05)}."
    return [text, ""]
