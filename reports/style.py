"""The style sheet of the page: one column, light or dark as the reader's system, tables that scroll on a phone."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: #d9dee4;
  --good: #00694d; --good-page: #e3f4ee; --bad: #b00000; --bad-page: #fdeaea; --warn: #7a5200; --warn-page: #fff4d6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2127; --ink: #e6e9ed; --soft: #9ba5b0; --line: #363d46;
    --good: #66d1ae; --good-page: #12332a; --bad: #ff8d86; --bad-page: #431a1a; --warn: #f0c45c; --warn-page: #3a2e10;
  }
  figure .scroll { filter: brightness(.9); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 1200px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
footer { padding-bottom: 40px; color: var(--soft); font-size: 14px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 21px; margin: 0 0 4px; overflow-wrap: anywhere; }
h3 { font-size: 17px; margin: 24px 0 6px; }
p { margin: 6px 0; }
a { color: inherit; }
code { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: 15px; }
nav { margin: 12px 0 0; display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 15px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px; margin: 20px 0; }
.verdict { border-radius: 10px; padding: 12px 16px; margin: 16px 0 0; font-weight: 600; }
.good { background: var(--good-page); color: var(--good); }
.bad { background: var(--bad-page); color: var(--bad); }
.warn { background: var(--warn-page); color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 16px 0 0; padding: 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tiles dt { color: var(--soft); font-size: 14px; }
.tiles dd { margin: 0; font-size: 26px; font-weight: 650; line-height: 1.25; }
.tiles small { display: block; font-size: 13px; font-weight: 400; color: var(--soft); }
figure { margin: 16px 0; }
figcaption { color: var(--soft); font-size: 14px; margin-top: 4px; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
figure .scroll { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 8px; }
figure img { display: block; height: auto; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 6px 8px; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td.n { text-align: right; white-space: nowrap; }
th.n { text-align: right; }
td.w { min-width: 15em; }
td small { display: block; color: var(--soft); font-size: 13px; }
td.id { min-width: 17em; }
td.id small { overflow-wrap: anywhere; }
tr.no td { background: var(--bad-page); }
tr.no td.agree { color: var(--bad); font-weight: 700; }
details { margin: 8px 0; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 640px) {
  header, main, footer { padding-left: 10px; padding-right: 10px; }
  section { padding: 12px 8px; }
  figure .scroll { padding: 4px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  th, td { padding: 5px 7px; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
