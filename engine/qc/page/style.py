"""Inline style sheet and script of the quality control page.

The script only filters and enlarges pictures; without it everything is visible, and pictures are
links.
"""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ground:#fff;--panel:#f5f6f8;--ink:#1b1f24;--dim:#5b6572;
--line:#d9dde3;--accent:#0b62a8;--bad:#b3261e;--warn:#8a5a00;--bars:#7fb2dd;--shade:#0001}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--panel:#1d2126;--ink:#e7eaee;--dim:#9aa5b1;
--line:#333a43;--accent:#7ab8f0;--bad:#ff8a80;--warn:#f2b84b;--bars:#3d79ad;--shade:#0006}}
*{box-sizing:border-box}
html{scroll-padding-top:4.5rem}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Noto Sans",sans-serif;overflow-wrap:anywhere}
header,main{max-width:1560px;margin:0 auto;padding:0 1.25rem}
header{padding-top:1.5rem}
h1{font-size:1.6rem;line-height:1.2;margin:0}
h1 span{color:var(--dim);font-weight:400}
h2{font-size:1.25rem;margin:2.2rem 0 .4rem}
h2 span,h3 span{color:var(--dim);font-weight:400}
h3{font-size:1.02rem;margin:0}
p{margin:.3rem 0 .8rem;max-width:80ch}
.dim,small{color:var(--dim)}
a{color:var(--accent)}
code{font:.88em ui-monospace,SFMono-Regular,Consolas,monospace;background:var(--panel);
padding:.1em .35em;border-radius:4px}
.figures{display:flex;flex-wrap:wrap;gap:.5rem 2.2rem;margin:1rem 0 .6rem}
.figures div{display:flex;flex-direction:column-reverse}
.figures dt{color:var(--dim);font-size:.85rem}
.figures dd{margin:0;font-size:1.55rem;line-height:1.2;font-variant-numeric:tabular-nums}
.bad{color:var(--bad)}.warn{color:var(--warn)}
nav{position:sticky;top:0;z-index:2;background:var(--ground);border-block:1px solid var(--line);
margin-top:1rem}
nav>div{max-width:1560px;margin:0 auto;padding:.55rem 1.25rem;display:flex;flex-wrap:wrap;
gap:.35rem 1.1rem;align-items:center}
nav label{display:flex;gap:.4rem;align-items:center;color:var(--dim)}
nav form{display:flex;flex-wrap:wrap;gap:.35rem 1rem;margin-left:auto;align-items:center}
select,button{font:inherit;color:inherit;background:var(--panel);border:1px solid var(--line);
border-radius:6px;padding:.2rem .5rem;max-width:16rem}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:4px}
.rows{width:100%;border-collapse:collapse}
.rows th{text-align:left;color:var(--dim);font-weight:400;font-size:.85rem}
.rows td,.rows th{padding:.45rem .8rem .45rem 0;border-bottom:1px solid var(--line);
vertical-align:top}
.rows img{width:84px;height:84px;object-fit:cover;border-radius:4px;display:block}
.rows .file{min-width:14rem}
.rows td:first-child:has(img),.rows td:first-child:empty{width:1px}
.ends td{width:40%}.ends td:first-child{width:20%}
.end{display:flex;gap:.8rem}
#told:empty{display:none}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:1.2rem}
.chart{width:100%;max-width:460px;height:auto;background:var(--panel);border-radius:8px;
padding:.5rem}
.chart text{fill:var(--ink);font:12px system-ui,sans-serif}
.chart .dim{fill:var(--dim)}.chart .who{font-weight:600}
.chart .end{text-anchor:end}.chart .mid{text-anchor:middle}
.chart .bars{fill:var(--bars)}
.chart .axis{stroke:var(--dim);fill:none}
.chart .mean{stroke:var(--ink);stroke-dasharray:3 3;fill:none}
article{border-top:1px solid var(--line);padding:1.1rem 0;content-visibility:auto;
contain-intrinsic-size:auto 700px}
.montage{display:block;max-width:100%;height:auto;border-radius:6px;margin:.5rem 0 .2rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,168px),1fr));
gap:.8rem;margin:.7rem 0}
.cards.large{grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr))}
.cards figure{margin:0;background:var(--panel);border-radius:8px;overflow:hidden}
.cards a{display:block}
.cards img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:#000;height:auto}
.cards figcaption{padding:.4rem .6rem .55rem;font-size:.85rem;line-height:1.35}
.cards figcaption b,.cards figcaption small{display:block}
.failed{box-shadow:inset 0 0 0 2px var(--bad)}
.key{display:inline-flex;gap:.35rem;align-items:center;margin-right:1rem}
.key i{width:1.4rem;height:.28rem;border-radius:2px;outline:2px solid #000}
dialog{border:0;padding:0;background:#000;color:#eee;max-width:100vw;max-height:100vh;
width:100vw;height:100vh}
dialog::backdrop{background:#000}
dialog img{display:block;width:100vw;height:calc(100vh - 3.2rem);object-fit:contain}
dialog p{margin:0;padding:.5rem 1rem;max-width:none;height:3.2rem;overflow:auto;font-size:.9rem}
dialog .dim{color:#aaa}
[hidden]{display:none!important}
@media(max-width:640px){header,main{padding-inline:.9rem}nav>div{padding-inline:.9rem}
nav{position:static}html{scroll-padding-top:0}nav form{margin-left:0}
.cards,.cards.large{grid-template-columns:repeat(2,1fr);gap:.6rem}
.rows thead{display:none}.rows tr{display:block;border-bottom:1px solid var(--line);
padding:.5rem 0}.rows td{display:block;border:0;padding:.15rem 0}
.ends td,.ends td:first-child{width:auto}
.rows td:empty{display:none}
.rows [data-of]::before{content:attr(data-of) " ";color:var(--dim)}
.figures{gap:.5rem 1.4rem}}
@media print{nav{display:none}article{content-visibility:visible}}
"""

SCRIPT = """
(()=>{
const form=document.querySelector('nav form');if(form){
const all=[...document.querySelectorAll('[data-s]')];
const s=document.getElementById('subject'),e=document.getElementById('experiment');
const told=document.getElementById('told'),of=JSON.parse(document.getElementById('of').textContent);
form.hidden=false;
const show=()=>{let n=0;
for(const x of all){x.hidden=(s.value&&x.dataset.s!==s.value)||(e.value&&x.dataset.e!==e.value);
if(!x.hidden&&x.matches('article figure'))n++}
for(const o of e.options)o.hidden=!!(s.value&&o.value&&String(of[o.value])!==s.value);
for(const p of document.querySelectorAll('[data-none]'))
p.hidden=!![...p.parentNode.querySelectorAll('[data-s]')].some(x=>!x.hidden);
told.textContent=s.value||e.value?n+' overlays':'';
history.replaceState(null,'','#'+[s.value&&'s='+s.value,e.value&&'e='+e.value].filter(Boolean)
.join('&'))};
s.onchange=()=>{if(e.value&&s.value&&String(of[e.value])!==s.value)e.value='';show()};
e.onchange=show;form.onreset=()=>setTimeout(show);
const h=new URLSearchParams(location.hash.slice(1));
if(h.has('s')||h.has('e')){s.value=h.get('s')||'';e.value=h.get('e')||'';show()}}
const d=document.querySelector('dialog'),big=d.querySelector('img'),cap=d.querySelector('p');
let links=[],at=0;
const put=n=>{at=(n+links.length)%links.length;const a=links[at];big.src=a.href;
const img=a.querySelector('img');big.alt=img?img.alt:'';
cap.textContent=(at+1)+' of '+links.length+': '+(img?img.alt:'')+' (arrow keys, Esc)'};
document.addEventListener('click',v=>{const a=v.target.closest('a[data-big]');
if(!a||v.ctrlKey||v.metaKey||v.shiftKey)return;v.preventDefault();
links=[...a.closest('section,article').querySelectorAll('a[data-big]')]
.filter(x=>x.offsetParent!==null);put(links.indexOf(a));d.showModal()});
d.onclick=()=>d.close();
d.onclose=()=>{big.removeAttribute('src');if(links[at])links[at].focus()};
d.addEventListener('keydown',v=>{if(v.key==='ArrowRight')put(at+1);
if(v.key==='ArrowLeft')put(at-1)});
})();
"""
