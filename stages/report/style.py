"""The look of the page: one style sheet for light and dark, screens of any width, and paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d2127; --quiet: #59616d; --line: #e3e0d9; --faint: #f1efe9;
  --accent: #1d5fa6; --band: #a9c8ea; --hit: #14713f; --hit-paper: #e6f4ea; --warn: #a8321f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1b1f25; --ink: #e7e9ec; --quiet: #a4acb8; --line: #30363f; --faint: #22272e;
    --accent: #82b6f0; --band: #34557c; --hit: #6fd69c; --hit-paper: #17321f; --warn: #f39a86;
  }
}
*, *::before, *::after { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 0 1rem 4rem; max-width: 78rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  overflow-wrap: break-word;
}
h1, h2, h3, h4, h5, p, ol, ul, dl, figure { margin: 0; padding: 0; }
h1 { font-size: clamp(1.6rem, 5vw, 2.2rem); line-height: 1.2; letter-spacing: -0.015em; font-weight: 650; }
h2 { font-size: 1.35rem; line-height: 1.3; letter-spacing: -0.01em; font-weight: 650;
  scroll-margin-top: 1rem; }
h3 { font-size: 1.05rem; line-height: 1.4; font-weight: 650; margin: 2rem 0 0.4rem; }
h4 { font-size: 0.95rem; font-weight: 600; }
h5 { font-size: 0.8rem; font-weight: 600; color: var(--quiet); margin-bottom: 0.4rem; }
ol, ul { list-style: none; }
a { color: var(--accent); text-underline-offset: 0.2em; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
main:focus { outline: none; }
code, pre { font: 0.8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
p { max-width: 46rem; }
.note, small { color: var(--quiet); font-size: 0.8rem; line-height: 1.5; }
.skip { position: absolute; left: -999rem; top: 0.5rem; padding: 0.5rem 1rem; z-index: 1;
  background: var(--card); }
.skip:focus { left: 1rem; }

.top { padding: 2.5rem 0 1.25rem; }
.kicker { color: var(--quiet); font-size: 0.8rem; letter-spacing: 0.04em; }
.about { color: var(--quiet); margin-top: 0.4rem; }
nav { border-block: 1px solid var(--line); padding: 0.6rem 0; margin-bottom: 2rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.1rem 1.1rem; }
nav a { display: inline-block; padding: 0.2rem 0; font-size: 0.9rem; text-decoration: none; }
nav a:hover { text-decoration: underline; }
main > section { margin-bottom: 3.5rem; }
main > section > h2 { margin-bottom: 0.75rem; }
main > section > p { margin-bottom: 1rem; }
footer { border-top: 1px solid var(--line); padding-top: 1rem; color: var(--quiet); font-size: 0.8rem; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(9rem, 100%), 1fr));
  gap: 0.75rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 0.9rem 1rem; }
.tile span { display: block; font-size: 0.8rem; color: var(--quiet); line-height: 1.4; }
.tile strong { display: block; font-size: clamp(1.5rem, 6vw, 1.9rem); line-height: 1.25; font-weight: 600;
  letter-spacing: -0.02em; }
.tile strong, .tile .interval, td, .place { font-variant-numeric: tabular-nums; }
.tile .name { color: var(--ink); font-weight: 600; }
.tile .interval { min-height: 1.4em; }
.tile .meaning { margin-top: 0.35rem; }
.notice { border: 1px solid var(--warn); border-left-width: 6px; border-radius: 10px; padding: 0.8rem 1rem;
  background: var(--card); margin-bottom: 1.25rem; }
.notice strong { color: var(--warn); }
.lead { margin-top: 1.1rem; font-size: 1.08rem; }

.box { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--card);
  margin: 0.75rem 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; overflow-wrap: normal; }
caption { text-align: left; padding: 0.7rem 0.9rem 0.4rem; font-size: 0.8rem; color: var(--quiet); }
th, td { padding: 0.45rem 0.9rem; text-align: left; vertical-align: middle; font-weight: 400; }
thead th { color: var(--quiet); font-size: 0.78rem; font-weight: 600; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: bottom; }
tbody tr + tr > * { border-top: 1px solid var(--faint); }
tbody th { min-width: 8rem; }
.number { text-align: right; white-space: nowrap; }
td strong { font-weight: 650; }
.stacked small { display: block; font-size: 0.72rem; }
.plain { min-width: 14rem; font-size: 0.8rem; max-width: 34rem; overflow-wrap: anywhere; }
details { margin: 0.75rem 0; }
summary { cursor: pointer; color: var(--accent); font-size: 0.92rem; padding: 0.35rem 0; width: fit-content; }
pre { overflow: auto; max-height: 30rem; margin: 0.5rem 0; padding: 0.9rem 1rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; overflow-wrap: normal; }

svg { display: block; overflow: visible; }
.whisker { width: 150px; height: 20px; }
.whisker .scale { stroke: var(--line); stroke-width: 1; }
.whisker .other { stroke: var(--quiet); stroke-width: 1.5; }
.whisker rect { fill: var(--band); }
.whisker circle, .chart circle { fill: var(--accent); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1rem; }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 0.9rem; }
.chart figcaption { font-size: 0.88rem; font-weight: 600; margin-bottom: 0.4rem; }
.chart svg { width: 100%; height: auto; }
.chart text { fill: var(--quiet); font-size: 11px; font-variant-numeric: tabular-nums; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .mark { stroke: var(--accent); stroke-width: 1; stroke-dasharray: 2 3; }
.chart .curve { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.chart .note { margin-top: 0.4rem; }

article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem;
  margin: 0.75rem 0 1rem; }
.row { margin-top: 1rem; }
.strip { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); column-gap: 0.6rem; }
.small .strip { grid-template-columns: repeat(4, minmax(0, 1fr)); }
@media (min-width: 34rem) { .strip, .small .strip { grid-template-columns: repeat(5, minmax(0, 1fr)); } }
@media (min-width: 60rem) { .strip, .small .strip { grid-template-columns: repeat(10, minmax(0, 1fr)); } }
.card { display: grid; grid-row: span 3; grid-template-rows: subgrid; min-width: 0; padding-bottom: 0.6rem;
  font-size: 0.76rem; line-height: 1.35; }
.frame { display: flex; align-items: flex-end; margin-bottom: 0.4rem; border-radius: 6px; }
.frame img { display: block; width: auto; height: auto; max-width: 100%; max-height: 7.4rem;
  border-radius: 6px; box-shadow: 0 0 0 1px var(--line); }
.small .frame img { max-height: 5.2rem; }
.frame.none { align-items: center; justify-content: center; min-height: 4.5rem; padding: 0.3rem;
  border: 1px dashed var(--line); color: var(--quiet); font-size: 0.7rem; text-align: center; }
.caption { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; }
.place { color: var(--quiet); font-size: 0.72rem; margin-right: 0.4rem; }
.hit img, .hit .none { box-shadow: 0 0 0 3px var(--hit); }
.hit-mark { color: var(--hit); background: var(--hit-paper); border-radius: 4px; padding: 0 0.3rem;
  font-size: 0.72rem; font-weight: 600; white-space: nowrap; }
.of-item { display: flex; gap: 0.9rem; align-items: center; }
.of-item h3 { margin: 0; min-width: 0; }
.of-item .frame { max-width: 8rem; margin: 0; flex: none; }
.of-item .frame.none { width: 5rem; height: 6rem; }
.views { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr));
  column-gap: 2rem; }
.views h4 { font-size: 0.8rem; color: var(--quiet); margin-bottom: 0.4rem; }
.views .small .strip { grid-template-columns: repeat(5, minmax(0, 1fr)); }
.mismatches { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr));
  gap: 0.75rem; }
.mismatches li { display: flex; gap: 0.9rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 0.8rem; min-width: 0; font-size: 0.85rem; }
.mismatches li > div { min-width: 0; }
.mismatches .frame { width: 5.4rem; flex: none; align-items: flex-start; }
.key { color: var(--quiet); }
.left-out dt { font-weight: 600; }
.left-out dd { margin: 0 0 0.8rem; color: var(--quiet); }

@media (max-width: 34rem) { th, td { padding: 0.45rem 0.6rem; } tbody th { min-width: 6.5rem; } }
@media (min-width: 72rem) {
  body { display: grid; grid-template-columns: 12rem minmax(0, 1fr); column-gap: 3rem; }
  .top, footer { grid-column: 2; }
  nav { grid-column: 1; grid-row: 2; border: 0; padding: 0.2rem 0; }
  nav ul { position: sticky; top: 2rem; flex-direction: column; gap: 0.25rem; }
  main { grid-column: 2; grid-row: 2; min-width: 0; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #bbb; --faint: #eee;
    --accent: #1d5fa6; --band: #a9c8ea; --hit: #14713f; --hit-paper: #fff; --warn: #a8321f; }
  body { display: block; max-width: none; padding: 0; font-size: 10pt; }
  nav, .skip { display: none; }
  .box, pre { overflow: visible; max-height: none; }
  pre { white-space: pre-wrap; }
  table { font-size: 8pt; }
  th, td { padding: 0.25rem 0.4rem; }
  article, .tile, .chart, .mismatches li, tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
  details::details-content { content-visibility: visible; display: block; }
}
"""
