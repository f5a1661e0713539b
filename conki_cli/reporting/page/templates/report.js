"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  // Colours: as the system has them, light, dark.
  const themes = { auto: "automatic", light: "light", dark: "dark" };
  const theme = byId("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const names = Object.keys(themes);
    const next = names[(names.indexOf(root.dataset.theme) + 1) % names.length];
    root.dataset.theme = next;
    theme.textContent = `Colours: ${themes[next]}`;
  });

  // Clips: search, sort, columns of seeds.
  const table = byId("clip-table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const plain = (text) => text.normalize("NFKC").toLocaleLowerCase();
  let haystack = null;
  const named = heads.some((head) => head.classList.contains("text")) ? 2 : 1; // id and text, or the id alone

  const search = () => {
    haystack ??= rows.map((row) => plain(Array.from(row.cells).slice(0, named).map((cell) => cell.textContent).join(" ")));
    const words = plain(byId("search").value).split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, n) => {
      const fits = words.every((word) => haystack[n].includes(word));
      if (row.hidden === fits) row.hidden = !fits;
      shown += fits;
    });
    byId("count").textContent = shown === rows.length ? `${rows.length} clips` : `${shown} of ${rows.length} clips`;
  };
  let waiting = 0;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, rows.length > 2000 ? 150 : 0);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").hidden = false;

  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const sort = (column, direction) => {
    const isText = heads[column].matches(".id, .text");
    const keys = new Map(rows.map((row) => {
      const text = row.cells[column].textContent;
      return [row, isText ? text : Number(text)];
    }));
    const compare = isText ? collator.compare : (a, b) => a - b;
    const sorted = rows.slice().sort((a, b) => direction * compare(keys.get(a), keys.get(b)));
    body.append(...sorted);
    heads.forEach((head, n) => {
      if (n === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => {
      const first = head.classList.contains("error") ? -1 : 1; // errors: the largest first
      const before = { ascending: 1, descending: -1 }[head.getAttribute("aria-sort")];
      sort(column, before ? -before : first);
    });
  });
  document.querySelectorAll(".seeds-of").forEach((box) => {
    const follow = () => table.classList.toggle(`seeds-${box.value}`, box.checked);
    box.addEventListener("change", follow);
    follow(); // a browser may remember what was ticked
  });

  // On paper nothing can be unfolded.
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = Array.from(document.querySelectorAll("details:not([open])"));
    unfolded.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => {
    unfolded.forEach((details) => { details.open = false; });
  });
})();
