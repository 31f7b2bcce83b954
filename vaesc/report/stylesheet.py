"""The report's style: light and dark, phone to print, no script."""

CSS = """
:root{--bg:#fff;--ink:#1b1f24;--faint:#5f6873;--line:#e1e4e8;--soft:#f5f6f8;
--better:#0072b2;--worse:#b94e00;--none:#5f6873}
@media screen and (prefers-color-scheme:dark){:root{--bg:#15181d;--ink:#e8eaed;--faint:#9aa4b0;
--line:#2b3038;--soft:#1d2127;--better:#56b4e9;--worse:#ff8b3d;--none:#9aa4b0}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:48rem;margin:0 auto;padding:2rem 1rem 4rem}
.kicker{color:var(--faint);font-size:.875rem;margin:0 0 .75rem}
h1{font-size:1.7rem;line-height:1.25;font-weight:650;margin:0 0 .75rem;text-wrap:balance}
.verdict{font-size:1.1rem;margin:0 0 1.25rem;text-wrap:pretty}
h2{font-size:1.15rem;margin:3rem 0 .75rem;padding-top:1rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.75rem 0 .5rem}
p{margin:.5rem 0}
.facts{color:var(--faint);font-size:.9rem}
.chips{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.6rem,1fr));gap:.5rem;
list-style:none;margin:0 0 1rem;padding:0}
.chips li{border:1px solid var(--line);border-top:4px solid var(--none);border-radius:4px;
padding:.4rem .4rem .4rem .5rem;font-size:.85rem;line-height:1.4}
.chips b,.chips span,.chips small{display:block}
.chips span{color:var(--none);font-weight:600}
.chips small{color:var(--faint);font-size:.7rem;white-space:nowrap;
font-variant-numeric:tabular-nums}
.chips .better{border-top-color:var(--better)}.chips .better span{color:var(--better)}
.chips .worse{border-top-color:var(--worse)}.chips .worse span{color:var(--worse)}
figure{margin:1rem 0}
img{display:block;width:100%;height:auto}
figcaption{color:var(--faint);font-size:.875rem;margin-top:.6rem}
.scroll{overflow-x:auto;margin:.75rem 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}
th{font-weight:500}thead th{color:var(--faint)}
th:first-child{text-align:left;padding-left:0}
tbody th{white-space:normal;min-width:8.5rem}
td:last-child,th:last-child{padding-right:0}
.pairs td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.notes{color:var(--faint);font-size:.875rem;padding-left:1.2rem}
details{margin:.75rem 0}
summary{cursor:pointer;font-size:.9rem;color:var(--better)}
dt{font-weight:600;margin-top:.9rem}
dd{margin:.1rem 0 0;color:var(--ink)}
pre{background:var(--soft);padding:.75rem 1rem;border-radius:4px;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.85rem;margin:.5rem 0}
code{font-size:.85em;overflow-wrap:anywhere}
.ids{font-size:.9rem}
:focus-visible{outline:2px solid var(--better);outline-offset:2px}
@media screen and (max-width:30rem){img{width:calc(100% + 1.5rem);margin:0 -.75rem;max-width:none}}
@media print{body{font-size:10.5pt}main{max-width:none;padding:0}
h2{break-after:avoid;margin-top:1.5rem}figure,tr,.chips li{break-inside:avoid}
.scroll{overflow:visible}details{display:none}}
"""
