"""Names that the expressions in `published_checks.csv` use: the published tables, rearranged."""

import pandas as pd

ov, ss, iv, fr, ct, sl = (
    pd.read_csv(f)
    for f in (
        "mathlang_overlap.csv",
        "mathlang_set_sizes.csv",
        "mathlang_interventions.csv",
        "mathlang_fraction_pruning.csv",
        "mathlang_controls.csv",
        "slam_accuracy.csv",
    )
)
J1 = "meta-llama/Llama-3.2-1B-Instruct"
m = iv[iv.variant == "main"]
none = m[m.intervention == "none"]
page = iv[iv.variant == "page_table"].set_index(["model", "lang", "task", "metric"]).value
base = none.groupby(
    ["model", "lang", "nonmath", "task", "metric"]
).value.mean()  # MMLU: mean of the stored baselines
gs = (
    none[none.task == "gsm8k"]
    .pivot_table(index=["model", "lang", "nonmath", "source_dir"], columns="metric", values="value")
    .reset_index()
)
for k in list(base.index):  # GSM8K strict and RACE: page value
    if (k[0], k[1], k[3], k[4]) in page.index:
        base[k] = page[(k[0], k[1], k[3], k[4])]
    elif k[4] == "flexible":  # flexible: from runs whose strict value is the page's
        q = gs[
            (gs.model == k[0])
            & (gs.lang == k[1])
            & ((gs.strict - page[(k[0], k[1], "gsm8k", "strict")]).abs() < 1e-9)
        ]
        base[k] = q.flexible.mean()
cell = (
    m[m.intervention != "none"]
    .groupby(["intervention", "nonmath", "model", "lang", "keep_ratio", "task", "metric"])
    .value.mean()
)
rel = cell.reset_index().merge(
    base.rename("base").reset_index(), on=["model", "lang", "nonmath", "task", "metric"]
)
rel["rel"] = rel.value / rel.base - 1


def acc(table, benchmark, system, size, lang):
    """One printed accuracy of SLAM."""
    rows = sl[(sl.table.astype(str) == table) & (sl.benchmark == benchmark)]
    rows = rows[(rows.system == system) & (rows["size"] == size) & (rows.lang == lang)]
    return float(rows.accuracy.iloc[0])
