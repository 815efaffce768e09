#!/usr/bin/env python3
"""Every target/bench/*.json as one page: target/bench/report.html, with tables and plots, and nothing beside it.

Run by scripts/bench.sh. A file is a list of {what, size, unit, ours, peer, theirs, ratio}; ratio > 1 means ours is better.
"""
import html
import json
import os
import sys
import time

COLOURS = ["#1b6ca8", "#8e8e8e", "#c0392b", "#d68910", "#2e8b57", "#6c3483", "#444444"]
WIDTH, BAR = 760, 18


def groups(rows):
    """(what, unit): {(size, name): value}, in order of appearance."""
    found = {}
    for row in rows:
        values = found.setdefault((row["what"], row["unit"]), {})
        values[row["size"], "Penstock"] = row["ours"]
        if row["peer"]:
            values[row["size"], row["peer"]] = row["theirs"]
    return found


def plot(title, unit, values):
    """A bar for each value, as SVG."""
    most = max((value for value in values.values() if value), default=1) or 1
    names = list(dict.fromkeys(name for _, name in values))
    height = 26 + BAR * len(values)
    size = f"width='{WIDTH}' height='{height}' font-family='sans-serif' font-size='12'"
    out = [f"<svg xmlns='http://www.w3.org/2000/svg' {size}>",
           f"<text x='0' y='14' font-weight='bold'>{html.escape(title)}, {html.escape(unit)}</text>"]
    for line, ((size, name), value) in enumerate(values.items()):
        y, width = 22 + BAR * line, 440 * value / most
        colour = COLOURS[names.index(name) % len(COLOURS)]
        label = f"{name}, {size} B" if size else name
        out.append(f"<text x='0' y='{y + 13}'>{html.escape(label)}</text>"
                   f"<rect x='210' y='{y + 2}' width='{width:.1f}' height='{BAR - 4}' fill='{colour}'/>"
                   f"<text x='{216 + width:.1f}' y='{y + 13}'>{value:g}</text>")
    return "".join(out) + "</svg>"


def table(rows):
    head = "<tr><th>what<th>size<th>unit<th>Penstock<th>peer<th>theirs<th>ratio</tr>"
    cell = lambda value: f"<td>{'' if value is None else html.escape(str(value))}"
    keys = ("what", "size", "unit", "ours", "peer", "theirs", "ratio")
    body = ("<tr>" + "".join(cell(row[key]) for key in keys) + "</tr>" for row in rows)
    return f"<details><summary>table</summary><table>{head}{''.join(body)}</table></details>"


def page(folder):
    cpu = next((line.split(": ")[1] for line in open("/proc/cpuinfo") if line.startswith("model name")), "?").strip()
    parts = [f"<p>{html.escape(cpu)}, {os.cpu_count()} CPUs, Linux {os.uname().release}, {time.strftime('%Y-%m-%d')}. "
             "Ratios compare; absolute values depend on the machine and its mood.</p>"]
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".json"):
            continue
        with open(os.path.join(folder, name)) as file:
            rows = json.load(file)
        parts.append(f"<h2>{html.escape(name[:-5])}</h2>")
        parts += [f"<p>{plot(what, unit, values)}</p>" for (what, unit), values in groups(rows).items()]
        parts.append(table(rows))
    style = "body{font:14px sans-serif;max-width:800px;margin:2em auto}td,th{padding:0 .6em;text-align:left}"
    return (f"<!doctype html><meta charset='utf-8'><title>Penstock: figures</title><style>{style}</style>"
            f"<h1>Penstock: figures</h1>{''.join(parts)}\n")


def main():
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        sys.exit("usage: report.py FOLDER")
    path = os.path.join(sys.argv[1], "report.html")
    with open(path, "w") as file:
        file.write(page(sys.argv[1]))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
