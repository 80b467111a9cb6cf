//! Colours and spaces, for light and dark screens. Series colours differ in lightness too, so that they are told apart
//! without their hue.

/// What a chart needs, in a page or alone.
pub(crate) const CHART: &str = "\
:root{--ink:#1c2128;--soft:#59636e;--grid:#e2e6ea;--paper:#ffffff;--panel:#f6f8fa;--s0:#1f6fd1;--s1:#c2570c;--s2:#1a7f4b;\
--s3:#8a3ffc;--s4:#9f1853;--s5:#57606a;--low:#b35900;--bad:#c62828;--warn:#a15c00;--good:#1a7f37}\
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa4af;--grid:#30363d;--paper:#0d1117;--panel:#161b22;\
--s0:#6cb0ff;--s1:#ffa657;--s2:#56d364;--s3:#c9a6ff;--s4:#ff9bce;--s5:#adb6c0;--low:#ffa657;--bad:#ff7b72;--warn:#e3b341;\
--good:#56d364}}\
.chart{font:12px system-ui,sans-serif;max-width:100%;height:auto}\
.chart text{fill:var(--ink)}.chart .title{font-weight:600;font-size:13px}.chart .soft{fill:var(--soft)}\
.chart .grid{stroke:var(--grid)}.chart .base{stroke:var(--soft)}.chart .back{fill:var(--grid)}\
.chart .s0{fill:var(--s0)}.chart .s1{fill:var(--s1)}.chart .s2{fill:var(--s2)}.chart .s3{fill:var(--s3)}\
.chart .s4{fill:var(--s4)}.chart .s5{fill:var(--s5)}.chart .low{fill:var(--low)}\
.chart path{fill:none;stroke-width:2;stroke-linejoin:round}\
.chart .l0{stroke:var(--s0)}.chart .l1{stroke:var(--s1)}.chart .l2{stroke:var(--s2)}.chart .l3{stroke:var(--s3)}\
.chart .l4{stroke:var(--s4)}.chart .l5{stroke:var(--s5)}";

/// What the page around it needs.
pub(crate) const PAGE: &str = "\
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
main{max-width:64rem;margin:0 auto;padding:1.5rem 1rem 4rem}h1{font-size:1.6rem;margin:.5rem 0}\
h2{font-size:1.2rem;margin:2.2rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--grid)}\
p{max-width:48rem}.lead{color:var(--soft)}figure{margin:1rem 0;padding:1rem;background:var(--panel);border-radius:8px}\
.sheet{display:inline-block;max-width:100%;margin-top:.5rem}.sheet img{display:block;max-width:100%;image-rendering:pixelated}\
.heads{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(0,1fr);text-align:center;font-size:.75rem;color:var(--soft)}\
figcaption{color:var(--soft);font-size:.9rem}.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));\
gap:1rem}.charts figure{margin:0}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;\
font-variant-numeric:tabular-nums;margin:.6rem 0}caption{text-align:left;color:var(--soft);padding-bottom:.2rem}\
th,td{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid var(--grid);vertical-align:top;\
overflow-wrap:anywhere;max-width:28rem}td{white-space:pre-line}th{font-weight:600;overflow-wrap:normal}td.n,th.n{text-align:right;white-space:nowrap}\
details{margin:.3rem 0}summary{cursor:pointer;color:var(--soft)}ul{padding-left:1.2rem}\
.badge{font-weight:600}.bad{color:var(--bad)}.warn{color:var(--warn)}.good{color:var(--good)}\
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;padding:0}a{color:var(--s0)}";
