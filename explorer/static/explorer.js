// Progressive enhancement only: every page works without this file.
const $ = (s, el = document) => el.querySelector(s), $$ = (s, el = document) => [...el.querySelectorAll(s)];
const state = $("#live-status");

// Live regions: <section id=… data-live="view live"> is read again from the same address when its topic moves.
function live() {
  const regions = () => $$("[data-live]");
  if (!regions().length || !window.EventSource) return;
  const dirty = new Set();
  let timer = 0, busy = false;
  const same = el => { const copy = el.cloneNode(true); $$("details", copy).forEach(d => { d.open = false; }); $$("[data-copy]", copy).forEach(b => { b.hidden = true; b.textContent = ""; }); return copy.innerHTML; };
  const swap = (old, fresh) => {
    const at = document.activeElement, inside = old.contains(at);
    const href = inside && at.getAttribute("href"), index = inside ? $$("a,summary,button,[tabindex]", old).indexOf(at) : -1;
    const open = new Set($$("details[open]", old).map(d => d.id)), left = $$(".scroll", old).map(e => e.scrollLeft);
    old.replaceChildren(...fresh.childNodes);
    $$("details", old).forEach(d => { if (d.id && open.has(d.id)) d.open = true; });
    $$(".scroll", old).forEach((e, i) => { e.scrollLeft = left[i] || 0; });
    if (inside) ((href && $$("a", old).find(a => a.getAttribute("href") === href)) || $$("a,summary,button,[tabindex]", old)[index])?.focus({ preventScroll: true });
    old.classList.remove("fresh"); void old.offsetWidth; old.classList.add("fresh");
  };
  const refresh = async () => {
    timer = 0;
    if (document.hidden || busy || !dirty.size) return;
    if (String(getSelection())) { timer = setTimeout(refresh, 2000); return; }  // never pull text from under a selection
    const topics = [...dirty];
    dirty.clear();
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!answer.ok) throw new Error(answer.status);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const el of regions()) {
        const fresh = el.dataset.live.split(" ").some(t => topics.includes(t)) && next.getElementById(el.id);
        if (fresh && same(fresh) !== same(el)) swap(el, fresh);
      }
      state.textContent = "live, updated " + new Date().toLocaleTimeString();
    } catch { topics.forEach(t => dirty.add(t)); state.textContent = "not reachable"; timer = setTimeout(refresh, 5000); }
    busy = false;
    if (dirty.size) timer ||= setTimeout(refresh, 700);
  };
  const topics = new Set(regions().flatMap(r => r.dataset.live.split(" ")));
  let source, last = document.body.dataset.version;
  const open = () => {
    source = new EventSource("/events?topics=" + [...topics]);
    for (const t of topics) source.addEventListener(t, e => {
      if (t === "view" && e.lastEventId === last) return;
      if (t === "view") last = e.lastEventId;
      dirty.add(t); timer ||= setTimeout(refresh, t === "view" ? 400 : 2000);
    });
    source.onopen = () => { state.textContent = "live"; };
    source.onerror = () => { state.textContent = "reconnecting…"; dirty.add("view"); };
  };
  open();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", e => { if (e.persisted) { dirty.add("view"); open(); timer ||= setTimeout(refresh, 0); } });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && dirty.size) timer ||= setTimeout(refresh, 0); });
}

// Keys: / search, j k rows, [ ] pages, g + letter, ? help.
function keys() {
  let chord = false;
  const move = d => {
    const rows = $$("tbody tr").filter(r => r.checkVisibility() && $("a", r));
    const at = rows.findIndex(r => r.contains(document.activeElement));
    const row = rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + d))];
    if (row) { $("a", row).focus(); row.scrollIntoView({ block: "nearest" }); }
  };
  addEventListener("keydown", e => {
    if (e.ctrlKey || e.metaKey || e.altKey || /INPUT|TEXTAREA|SELECT/.test(e.target.tagName)) return;
    const k = e.key;
    if (chord) { chord = false; const to = $(`nav a[data-key="${CSS.escape(k)}"]`); if (to) { e.preventDefault(); to.click(); } return; }
    if (k === "g") { chord = true; setTimeout(() => { chord = false; }, 1500); }
    else if (k === "/") { e.preventDefault(); $("input[name=q]")?.focus(); }
    else if (k === "j") move(1);
    else if (k === "k") move(-1);
    else if (k === "[") $("a[rel=prev]")?.click();
    else if (k === "]") $("a[rel=next]")?.click();
    else if (k === "+" || k === "-") $(`.zoom a[data-key="${k}"]`)?.click();
    else if (k === "?") $("#help").showModal();
  });
}

// Copy full ids and commands: <button data-copy="…">; hidden until this script can serve them.
function copies() {
  const show = () => $$("[data-copy][hidden]").forEach(b => { b.hidden = false; });
  if (!navigator.clipboard) return;
  show();
  new MutationObserver(show).observe($("main"), { childList: true, subtree: true });
  addEventListener("click", async e => {
    const b = e.target.closest("[data-copy]");
    if (!b) return;
    await navigator.clipboard.writeText(b.dataset.copy);
    b.textContent = "copied";
    setTimeout(() => { b.textContent = "copy"; }, 1200);
  });
}

// A selector acts when it changes; without a script its button does.
function selects() {
  for (const f of $$("form.auto")) {
    $("button", f).hidden = true;
    f.addEventListener("change", e => { if (e.target.tagName === "SELECT") f.requestSubmit(); });
  }
}
// Drag over the plot to look at a part of it; a drag that goes nowhere is a click. Without a script, two numbers do it.
function brush() {
  let svg, from, mark;
  const at = e => { const box = svg.getBoundingClientRect(), d = svg.dataset; return Math.max(+d.left, Math.min(+d.right, (e.clientX - box.left) * svg.viewBox.baseVal.width / box.width)); };
  const end = () => { mark?.remove(); svg = mark = undefined; };
  addEventListener("pointerdown", e => {
    svg = e.button ? undefined : e.target.closest("#plot svg[data-low]") || undefined;
    if (svg) from = at(e);
  });
  addEventListener("pointermove", e => {
    if (!svg) return;
    if (!mark && Math.abs(at(e) - from) < 8) return;
    if (!mark) { mark = document.createElementNS(svg.namespaceURI, "rect"); mark.setAttribute("class", "brush"); mark.setAttribute("y", 0); mark.setAttribute("height", svg.dataset.bottom); svg.append(mark); getSelection().removeAllRanges(); }
    mark.setAttribute("x", Math.min(from, at(e)));
    mark.setAttribute("width", Math.abs(at(e) - from));
  });
  addEventListener("pointerup", e => {
    if (!svg) return;
    if (!mark) return end();
    const d = svg.dataset, form = $("#plot .zoom"), place = p => Math.round(+d.low + (p - d.left) / (d.right - d.left) * (d.high - d.low));
    const [a, b] = [from, at(e)].sort((p, q) => p - q).map(place);
    addEventListener("click", c => { c.preventDefault(); c.stopPropagation(); }, { capture: true, once: true });
    setTimeout(() => { if (b > a) { form.elements.from.value = a; form.elements.to.value = b; form.submit(); } }, 0);
    end();
  });
  addEventListener("pointercancel", end);
  addEventListener("dragstart", e => { if (e.target.closest("#plot svg")) e.preventDefault(); });
  addEventListener("keydown", e => { if (e.key === "Escape" && mark) end(); });
}
live(); keys(); copies(); selects(); brush();
