"""The report's style: light and dark, phone to print, no script."""

CSS = """
:root{--bg:#fff;--ink:#1b1f24;--faint:#5f6873;--line:#e1e4e8;--soft:#f5f6f8;
--better:#0072b2;--worse:#b94e00;--none:#5f6873;--refined:#1a1a8c}
@media screen and (prefers-color-scheme:dark){:root{--bg:#15181d;--ink:#e8eaed;--faint:#9aa4b0;
--line:#2b3038;--soft:#1d2127;--better:#56b4e9;--worse:#ff8b3d;--none:#9aa4b0;--refined:#b9a3ff}}
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
b.better,td .better{color:var(--better)}b.worse,td .worse{color:var(--worse)}
figure{margin:1rem 0}
img{display:block;width:100%;height:auto}
.small{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:0 1rem}
.small figure{margin:.5rem 0;max-width:26rem}
.sheet{position:absolute}
.cut{display:block;width:100%;height:auto;image-rendering:pixelated}
.cut .dark{display:none}
@media screen and (prefers-color-scheme:dark){.cut .dark{display:inline}.cut .light{display:none}}
.made{margin:.5rem 0 1.25rem}
.line{display:grid;grid-template-columns:9rem 1fr;gap:.75rem;align-items:center;margin:.3rem 0}
.line p{margin:0;font-size:.9rem;line-height:1.25;text-align:right}
.line small{display:block;color:var(--faint);font-variant-numeric:tabular-nums}
.refined p{color:var(--refined)}.article p{color:var(--better)}.pixel p{color:var(--worse)}
.refined small,.article small,.pixel small{color:var(--faint)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(14.5rem,100%),1fr));
gap:.75rem;margin:1rem 0}
.card{border:1px solid var(--line);border-radius:6px;padding:.6rem .7rem .7rem;min-width:0;
font-size:.85rem}
.card h3{display:flex;justify-content:space-between;align-items:baseline;gap:.5rem;
margin:0 0 .5rem;font-size:.9rem}
.card small{color:var(--faint);font-size:.75rem;font-weight:400;white-space:nowrap}
.does{display:grid;grid-template-columns:3.7rem 1fr;gap:.5rem}
.effect div{display:grid;grid-template-columns:.7rem 1fr;align-items:center;margin-bottom:.35rem}
.card .effect small{font-size:.9rem;font-weight:600;line-height:1}
.legend{font-size:.875rem;color:var(--faint)}
.legend dt{display:inline;margin:0}.legend dt::after{content:": "}
.legend dd{display:inline}.legend dd::after{content:"";display:block;margin-bottom:.35rem}
.card dl{margin:0;min-width:0}
.card dt{display:inline;margin:0;font-weight:400;color:var(--faint)}
.card dt b{color:var(--ink);font-weight:600}
.card dt::after{content:" "}
.card dd{display:inline;margin:0;font-weight:600;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}
.card dl div{line-height:1.35;margin-bottom:.2rem}
.users{display:grid;grid-template-columns:repeat(6,1fr);gap:.25rem;margin-top:.35rem}
.users div{border-bottom:3px solid}
.users .better{border-color:var(--better)}.users .worse{border-color:var(--worse)}
.bar{display:block;position:relative;height:.4rem;margin:.2rem 0 .1rem;border-radius:2px;
background:linear-gradient(var(--better),var(--better)) no-repeat 0/var(--p) 100% var(--line)}
.bar::after{content:"";position:absolute;left:var(--b);top:-.15rem;bottom:-.15rem;width:2px;
background:var(--ink)}
figcaption{color:var(--faint);font-size:.875rem;margin-top:.6rem}
.scroll{overflow-x:auto;margin:.75rem 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}
th{font-weight:500}thead th{color:var(--faint)}
th:first-child{text-align:left;padding-left:0}
tbody th{white-space:normal;min-width:8.5rem}
.group th{color:var(--faint);font-size:.8rem;padding-top:.9rem;text-align:left}
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
@media screen and (max-width:30rem){img{width:calc(100% + 1.5rem);margin:0 -.75rem;max-width:none}
.line{grid-template-columns:1fr;gap:.1rem;margin:.5rem 0}
.line p{display:flex;justify-content:space-between;text-align:left}
tbody th[scope=row]{position:sticky;left:0;background:var(--bg);min-width:7.5rem}}
@media print{body{font-size:10.5pt}main{max-width:none;padding:0}
h2,h3{break-after:avoid}h2{margin-top:1.5rem}
figure,tr,.chips li,.card,.line,.made{break-inside:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.cards{grid-template-columns:repeat(3,1fr)}.cut{max-width:100%}
.scroll{overflow:visible}table{font-size:8pt}th,td{padding:.2rem .35rem}
details:not(.print){display:none}}
"""
