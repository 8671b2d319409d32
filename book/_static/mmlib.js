/* Loaded on every page; without it everything stays readable. It lets the ledger be filtered, and
   lets the arrow keys scroll what is wider than its box. */
document.addEventListener("DOMContentLoaded", () => {
  // A name that differs from the words that are seen is of no use to who speaks to the page.
  document.querySelectorAll("summary[aria-label], .search-button-field[aria-label]").forEach((e) =>
    e.removeAttribute("aria-label"));
  document.querySelectorAll(".theme-switch-button [title]").forEach((e) => e.removeAttribute("title"));
  // Roles that the standard has taken back, in a list that has none of the items it promises.
  document.querySelectorAll(".citation-list, .citation-list [role]").forEach((e) => e.removeAttribute("role"));
  const boxes = [...document.querySelectorAll(
    "main pre, .bd-content div.cell_output div.output, .bd-content mjx-container[display=true], .pst-scrollable-table-container")];
  const reach = () => boxes.forEach((box) => {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  new ResizeObserver(reach).observe(document.querySelector("main") ?? document.body);
});

/* The ledger: what is shown is what the address says, as in
   00_at_a_glance.html#verdict=no&column=published_data, so that it can be linked to. */
document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector(".mm-ledger");
  if (!table) return;
  const rows = [...table.tBodies[0].rows];
  const columns = { published_data: "Published data", real_llm: "Real LLM", organism: "Organism" };
  const has = (row, column, verdict) => row.dataset[column] === verdict;
  const some = (row, column, verdict) =>
    (column ? [column] : Object.keys(columns)).some((each) => has(row, each, verdict));
  const seen = (values) => [...new Set(values)].map((value) => [value, value]);
  const fields = [
    ["paper", "Paper", "every paper", seen(rows.map((row) => row.dataset.paper))],
    ["verdict", "Verdict", "every verdict",
      seen(rows.flatMap((row) => Object.keys(columns).map((column) => row.dataset[column]))).sort()],
    ["column", "Verdict on", "any of the three", Object.entries(columns)],
  ];
  const form = document.createElement("form"), status = document.createElement("p");
  form.className = "mm-filter";
  form.setAttribute("aria-label", "Claims that are shown");
  status.setAttribute("role", "status");
  for (const [name, words, all, options] of fields) {
    const label = document.createElement("label"), select = document.createElement("select");
    select.name = name;
    select.append(new Option(all, ""), ...options.map(([value, told]) => new Option(told, value)));
    label.append(`${words} `, select);
    form.append(label);
  }
  const reset = Object.assign(document.createElement("button"),
    { type: "reset", textContent: "Show all" });
  form.append(reset);
  table.before(form, status);

  const show = () => {
    const { paper, verdict, column } = Object.fromEntries(new FormData(form));
    let count = 0;
    for (const row of rows) {
      row.hidden = Boolean((paper && row.dataset.paper !== paper)
        || (verdict && !some(row, column, verdict)));
      count += !row.hidden;
    }
    for (const each of Object.keys(columns))
      table.querySelectorAll(`[data-label="${columns[each]}"]`).forEach((cell) =>
        cell.classList.toggle("mm-marked", Boolean(verdict)
          && (!column || column === each) && has(cell.parentElement, each, verdict)));
    status.textContent = `${count} of ${rows.length} claims are shown.`;
  };
  const read = () => {
    const query = new URLSearchParams(location.hash.slice(1));
    const row = document.getElementById(location.hash.slice(1));
    for (const [name] of fields) form.elements[name].value = query.get(name) ?? "";
    for (const [name] of fields) if (form.elements[name].selectedIndex < 0) form.elements[name].value = "";
    show();
    if (row && rows.includes(row)) row.scrollIntoView();
  };
  form.addEventListener("change", () => {
    const chosen = [...new FormData(form)].filter(([, value]) => value);
    history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
    show();
  });
  form.addEventListener("reset", () => {
    history.replaceState(null, "", "#");
    setTimeout(show);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", read);
  read();
});

/* Terms: a meaning opens below its term, or above where there is no room; Escape closes it, and a
   finger opens it before it follows the link. */
document.addEventListener("DOMContentLoaded", () => {
  const place = (term) => {
    const box = term.firstElementChild.getBoundingClientRect(), below = box.bottom + 200 < innerHeight;
    term.style.setProperty("--mm-left", `${Math.max(8, Math.min(box.left, innerWidth - 400))}px`);
    term.style.setProperty("--mm-top", below ? `${box.bottom}px` : "auto");
    term.style.setProperty("--mm-bottom", below ? "auto" : `${innerHeight - box.top}px`);
  };
  const reached = () => document.querySelectorAll(".mm-term:is(:hover, :focus-within)");
  document.querySelectorAll(".mm-term").forEach((term) => {
    for (const begin of ["pointerenter", "focusin"]) term.addEventListener(begin, () => place(term));
    for (const end of ["pointerleave", "focusout"])
      term.addEventListener(end, () => term.classList.remove("mm-closed"));
    let open = false;
    term.addEventListener("pointerdown", () => { open = term.contains(document.activeElement); });
    term.firstElementChild.addEventListener("click", (event) => {
      if (event.pointerType !== "touch" || open) return;
      event.preventDefault();
      term.firstElementChild.focus();
    });
  });
  document.addEventListener("scroll", () => reached().forEach(place), { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") reached().forEach((term) => term.classList.add("mm-closed"));
  });
});

/* Exercises are folded: they ask for time of their own, and make a page long for who only reads. */
document.addEventListener("DOMContentLoaded", () => {
  const section = document.querySelector("section#exercises");
  if (!section) return;
  const fold = document.createElement("details"), summary = document.createElement("summary");
  const count = section.querySelectorAll("div.exercise").length;
  fold.className = "mm-exercises";
  summary.textContent = count === 1 ? "Show the exercise" : `Show the ${count} exercises`;
  fold.append(summary, ...[...section.children].filter((e) => !["H2", "SPAN"].includes(e.tagName)));
  section.append(fold);
  const open = () => {
    const wanted = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!wanted || !fold.contains(wanted)) return;
    fold.open = true;
    wanted.scrollIntoView();
  };
  window.addEventListener("hashchange", open);
  open();
});
