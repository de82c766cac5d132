"""What one run of bench/reliability/run.sh says: verdicts on its rows, the line of each row, and the tables."""

COLUMNS = {
    "none": "no proxy",
    "nginx": "NGINX",
    "pass": "NGINX without retries",
    "haproxy": "HAProxy",
    "envoy": "Envoy",
    "envoy-tuned": "Envoy tuned",
    "stent": "Stent",
}
HEADINGS = {
    "faults": "Share of requests that users see fail, attempts per request that the backend saw, p99 of the requests that"
    " succeeded; for overload, answers per second in each phase. `late` marks rows in which the machine was too busy"
    " for their latencies to mean much.",
    "harm": "Good requests that users see fail, attempts per request that the backend saw, the median of what all their"
    " users waited, p99 of the GETs that succeeded after the first 2 s, and the longest wait of a request that succeeded."
    " Then the same of the bad requests: how many fail, attempts per request, the longest wait.",
}


def metric(result, name):
    """`p99_ms` of all requests, `good.p99_ms` of those of a kind."""
    kind, _, rest = name.rpartition(".")
    return (result["kinds"][kind] if kind else result)[rest]


def verdict(check, results):
    value, bound = metric(results["stent"], check.metric), check.bound
    text = f"{check.metric} {check.relation} {amount(check.metric, bound)}"
    if check.of_nginx or check.of_pass:
        peer, text = ("nginx", f"{bound:g} of NGINX's") if check.of_nginx else ("pass", f"pass + {bound:g}")
        text = f"{check.metric} {check.relation} {text}"
        beside = metric(results[peer], check.metric) if peer in results else None
        if beside is None:
            return {"metric": check.metric, "check": text, "value": value, "met": None}
        bound = bound * beside if check.of_nginx else bound + beside
        text = f"{text}, {amount(check.metric, bound)}"
    if value is None:
        met = False  # no request succeeded, so that there is no latency
    else:
        met = value <= bound if check.relation == "<=" else value >= bound
    return {"metric": check.metric, "check": text, "value": value, "met": met}


def amount(name, value):
    if value is None:
        return "none"
    # A share is a part of all requests; what is counted by its number is not.
    return f"{value * 100:.3g} %" if name.rpartition(".")[2].startswith("failed") else f"{value:.6g}"


def progress(row):
    cells = (f"{COLUMNS[name]} {cell(row, result)}" for name, result in row["results"].items())
    missed = [f"{check['check']} is {amount(check['metric'], check['value'])}" for check in row["checks"] if check["met"] is False]
    said = f"; missed: {', '.join(missed)}" if missed else ""
    return f"{row['scenario']}: {'; '.join(cells)}{said}{'; LATE' if row['late'] else ''}"


def cell(row, result):
    """One field of the table."""
    if row["family"] == "harm":
        return harm_cell(result["kinds"])
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


def harm_cell(kinds):
    good = kinds["good"]
    parts = [failures(good), f"p50 {good['any_p50_ms']:.0f} ms"]
    if good["settled_p99_ms"] is not None:
        parts.append(f"p99 {good['settled_p99_ms']:.1f} ms")
    if good["max_ms"] is not None:
        parts.append(f"at most {good['max_ms']:.0f} ms")
    if good.get("failed_attempts"):
        parts.append(f"{good['failed_attempts']} attempts failed")
    if "bad" in kinds:
        parts.append(f"bad: {failures(kinds['bad'])}, at most {kinds['bad']['any_max_ms']:.0f} ms")
    return ", ".join(parts)


def failures(kind):
    return f"{kind['failures']} of {kind['requests']} fail, ×{kind.get('attempts', 0) / kind['requests']:.2f}"


def markdown(result):
    lines = []
    for family, heading in HEADINGS.items():
        if rows := [row for row in result["rows"] if row["family"] == family]:
            lines += [heading, "", *table(rows), ""]
    keys = [
        f"`{row['scenario']}`: " + ", ".join(f"`retry.{key} = {value}`" for key, value in row["stent_keys"].items())
        for row in result["rows"]
        if row["stent_keys"]
    ]
    machine = result["machine"]
    lines += [
        "Stent has its defaults and, from config/hosp.toml, `max_attempts = 4` and `budget.ratio = 0.5`."
        + (f" Beyond them: {'; '.join(keys)}." if keys else ""),
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; {', '.join(result['versions'].values())};"
        f" commit {result['commit']}; seed {result['settings']['seed']}; {result['date']}.",
    ]
    return "\n".join(lines)


def table(rows):
    names = [name for name in COLUMNS if any(name in row["results"] for row in rows)]
    yield f"| scenario | {' | '.join(COLUMNS[name] for name in names)} | Stent must show |"
    yield "|---" * (len(names) + 2) + "|"
    for row in rows:
        cells = [cell(row, row["results"][name]) for name in names]
        bounds = []
        for check in row["checks"]:
            word = {True: "met", False: f"**missed: {amount(check['metric'], check['value'])}**", None: "not judged"}[check["met"]]
            bounds.append(f"{check['check']}: {word}")
        late = " (late)" if row["late"] else ""
        yield f"| {row['what']}{late} | {' | '.join(cells)} | {'; '.join(bounds)} |"
