"""What one run of bench/reliability/run.sh says: verdicts on its rows, the line of each row, and the table."""

COLUMNS = {
    "none": "no proxy",
    "nginx": "NGINX",
    "haproxy": "HAProxy",
    "envoy": "Envoy",
    "envoy-tuned": "Envoy tuned",
    "stent": "Stent",
}


def verdict(check, results):
    value, bound = results["stent"][check.metric], check.bound
    text = f"{check.metric} {check.relation} {amount(check.metric, bound)}"
    if check.of_nginx:
        if "nginx" not in results:
            return {"check": f"{check.metric} {check.relation} {bound} of NGINX's", "value": value, "met": None}
        bound *= results["nginx"][check.metric]
        text = f"{check.metric} {check.relation} {check.bound:g} of NGINX's, {amount(check.metric, bound)}"
    if value is None:
        met = False  # no request succeeded, so that there is no latency
    else:
        met = value <= bound if check.relation == "<=" else value >= bound
    return {"check": text, "value": value, "met": met}


def amount(metric, value):
    if value is None:
        return "none"
    return f"{value * 100:.3g} %" if metric.startswith("failed") else f"{value:.4g}"


def progress(row):
    cells = (f"{COLUMNS[name]} {cell(row, result)}" for name, result in row["results"].items())
    return f"{row['scenario']}: {'; '.join(cells)}{'; LATE' if row['late'] else ''}"


def cell(row, result):
    """One field of the table."""
    if row["shown"] == "goodput":
        phases = (f"{result[key]:.0f}" for key in sorted(result) if key.startswith("goodput_"))
        parts = [f"{'/'.join(phases)} per s"]
        if result["recovery_s"]:
            whole = row["seconds"] / len(row["per_second"])
            parts.append("no recovery" if result["recovery_s"] >= whole else f"recovers in {result['recovery_s']} s")
    else:
        parts = [amount("failed", result[row["shown"]])]
        if row["shown"] == "failed_post":
            parts.append(f"GETs {amount('failed', result['failed_get'])}")
    parts.append(f"×{result['attempts']:.2f}")
    if result["p99_ms"] is not None:
        parts.append(f"{result['p99_ms']:.0f} ms")
    for key in ("duplicates", "early"):
        if result[key]:
            parts.append(f"{result[key]} {key}")
    return ", ".join(parts)


def markdown(result):
    names = result["settings"]["peers"]
    lines = [
        "Share of requests that users see fail, attempts per request that the backend saw, p99 of the requests that"
        " succeeded; for overload, answers per second in each phase. `late` marks rows in which the machine was too busy"
        " for their latencies to mean much.",
        "",
        f"| scenario | {' | '.join(COLUMNS[name] for name in names)} | Stent must show |",
        "|---" * (len(names) + 2) + "|",
    ]
    for row in result["rows"]:
        cells = [cell(row, row["results"][name]) for name in names]
        bounds = []
        for check in row["checks"]:
            word = {True: "met", False: f"**missed: {amount(check['check'], check['value'])}**", None: "not judged"}[check["met"]]
            bounds.append(f"{check['check']}: {word}")
        late = " (late)" if row["late"] else ""
        lines.append(f"| {row['what']}{late} | {' | '.join(cells)} | {'; '.join(bounds)} |")
    keys = [
        f"`{row['scenario']}`: " + ", ".join(f"`retry.{key} = {value}`" for key, value in row["stent_keys"].items())
        for row in result["rows"]
        if row["stent_keys"]
    ]
    machine = result["machine"]
    lines += [
        "",
        "Stent has its defaults and, from config/hosp.toml, `max_attempts = 4` and `budget.ratio = 0.5`."
        + (f" Beyond them: {'; '.join(keys)}." if keys else ""),
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; {', '.join(result['versions'].values())};"
        f" commit {result['commit']}; seed {result['settings']['seed']}; {result['date']}.",
    ]
    return "\n".join(lines)
