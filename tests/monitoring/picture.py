#!/usr/bin/env python3
"""Draws a row of the dashboard as SVG, from what a Prometheus has: picture.py URL SECONDS ROW >FILE

Only what the dashboard in examples/monitoring/grafana.json says is asked; so the picture shows what it shows.
"""

import json
import os
import sys
import time
import urllib.parse
import urllib.request
from html import escape

WIDTH, HEIGHT, GAP = 400, 190, 10
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 30, 40
COLORS = ["#3274d9", "#e0752d", "#299c46", "#b877d9", "#c4162a", "#8a8a8a"]
POINTS = 200


def panels(row):
    """The panels below a row of the dashboard, in their order."""
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "../../examples/monitoring/grafana.json")) as file:
        dashboard = json.load(file)
    found, inside = [], False
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            inside = panel["title"] == row
        elif inside:
            found.append(panel)
    return found


def ask(url, expression, begin, end):
    step = max((end - begin) / POINTS, 1)
    for old, new in [('instance=~"$instance",volume=~"$volume"', ""), ("$__rate_interval", "15s")]:
        expression = expression.replace(old, new)
    query = urllib.parse.urlencode({"query": expression, "start": begin, "end": end, "step": step})
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{query}") as answer:
        return json.load(answer)["data"]["result"]


def shown(value, unit):
    if unit == "bytes":
        for name in ["B", "KiB", "MiB", "GiB"]:
            if value < 1024 or name == "GiB":
                return f"{value:.3g} {name}"
            value /= 1024
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    return f"{value:.3g}"


def draw(panel, url, begin, end, x, y):
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "none")
    lines = []
    for target in panel["targets"]:
        for series in ask(url, target["expr"], begin, end):
            name = target.get("legendFormat", "")
            for label, value in series["metric"].items():
                name = name.replace("{{%s}}" % label, value)
            lines.append((name, [(at, float(value)) for at, value in series["values"]]))
    lines.sort()
    top = max([value for _, points in lines for _, value in points] + [0]) or 1
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    across = lambda at: x + LEFT + (at - begin) / (end - begin) * wide
    up = lambda value: y + TOP + high - value / top * high
    out = [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="3" fill="#ffffff" stroke="#d8d9da"/>',
        f'<text x="{x + 10}" y="{y + 19}" font-weight="600">{escape(panel["title"])}</text>',
    ]
    for part in [0, 0.5, 1]:
        line = up(top * part)
        out.append(f'<line x1="{x + LEFT}" x2="{x + LEFT + wide}" y1="{line:.1f}" y2="{line:.1f}" stroke="#e9e9ea"/>')
        text = escape(shown(top * part, unit))
        out.append(f'<text x="{x + LEFT - 6}" y="{line + 4:.1f}" text-anchor="end" fill="#6e6e75">{text}</text>')
    for part in [0, 0.5, 1]:
        at = begin + (end - begin) * part
        anchor = ["start", "middle", "end"][int(part * 2)]
        text = f"{int(at - begin) // 60}:{int(at - begin) % 60:02d}"
        out.append(f'<text x="{across(at):.1f}" y="{y + TOP + high + 14}" text-anchor="{anchor}" fill="#6e6e75">{text}</text>')
    beside = x + LEFT
    for number, (name, points) in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        out.append(f'<rect x="{beside}" y="{y + HEIGHT - 15}" width="10" height="3" fill="{color}"/>')
        out.append(f'<text x="{beside + 14}" y="{y + HEIGHT - 9}" fill="#6e6e75">{escape(name)}</text>')
        beside += 30 + 7 * len(name)
    return out


def main():
    url, seconds, row = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    end = time.time()
    below = panels(row)
    if not below:
        sys.exit(f"the dashboard has no row {row}")
    rows = (len(below) + 2) // 3
    width, height = 3 * WIDTH + 4 * GAP, rows * HEIGHT + (rows + 1) * GAP
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11" fill="#26262b">',
        f"<title>{escape(row)}</title>",
        f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>',
    ]
    for number, panel in enumerate(below):
        x, y = GAP + number % 3 * (WIDTH + GAP), GAP + number // 3 * (HEIGHT + GAP)
        out += draw(panel, url, end - seconds, end, x, y)
    print("\n".join(out + ["</svg>"]))


main()
