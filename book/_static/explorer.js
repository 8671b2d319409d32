/* "Look for yourself": draws the numbers of explorer_data.js, which `mmlib.book.explorer` writes.
   Loaded on every page, does something on one. What is shown is what the address says, as in
   explorer.html#view=overlap&model=qwen-coder-0.5b&pair=en-de, so that it can be linked to. */
document.addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("mm-explorer"), data = window.MM_EXPLORER;
  if (!root) return;
  if (!data) return void (root.textContent = "The numbers of this page are missing: build the book.");

  // --- elements, words and numbers --------------------------------------------------------------

  const DRAWN = new Set(["svg", "g", "path", "circle", "text", "title"]);
  const make = (name, attributes = {}, ...children) => {
    const element = DRAWN.has(name)
      ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const name = (code) => data.languages[code]?.name ?? code;
  const pairName = (pair) => pair.split("-").map(name).join("–");
  const number = (x, digits) => x.toFixed(digits).replace(/^-(?=.*[1-9])/, "−").replace(/^-/, "");
  const samples = (n) => n > 1 ? `mean of ${n} calibration samples` : "1 calibration sample";
  const told = (x, digits) => x === null || x === undefined ? "not measured" : number(x, digits);
  const withInterval = (mean, low, high, digits) => told(mean, digits)
    + (Number.isFinite(low) && Number.isFinite(high)
      ? ` [${number(low, digits)}, ${number(high, digits)}]` : "");

  // --- what can be chosen ------------------------------------------------------------------------

  const plain = (names) => names.map((each) => [each, each]);
  const keys = (object) => Object.keys(object ?? {});
  const FIELDS = [ // name, label, view ("" for both), options: (model, choice) -> [value, words]
    ["model", "Model", "", (_, at) => data[at.view].map((m) => [m.id, `${m.id} (${m.kind})`])],
    ["pair", "Languages", "overlap", () => data.pairs.map((pair) => [pair, pairName(pair)])],
    ["edit", "Edit", "breaks", (m) => plain(keys(m.values))],
    ["measure", "Measured on", "breaks", (m, at) => plain(keys(m.values[at.edit]))],
    ["k", "Keep ratio", "", (m, at) => plain(
      keys(at.view === "overlap" ? m.values : m.values[at.edit]?.[at.measure]))],
    ["layer", "Layer", "overlap", (m) => [["all", "whole model"],
      ...plain([...Array(m.depth).keys()].map(String))]],
  ];
  const modelOf = (at) => data[at.view].find((m) => m.id === at.model) ?? data[at.view][0];
  const usual = (field, options) => {
    if (field !== "k") return options[0]?.[0] ?? "";
    return options.find(([value]) => value === "0.1")?.[0] ?? options.at(-1)?.[0] ?? "";
  };
  /* A full choice from the parameters of an address. What a model lacks stays in it, and is shown
     as not measured; with `strict` something that it has takes the place. */
  const choice = (query, strict = false) => {
    const at = { view: query.get("view") === "breaks" ? "breaks" : "overlap" };
    for (const [field, , view, options] of FIELDS) {
      if (view && view !== at.view) continue;
      const known = options(modelOf(at), at), value = query.get(field);
      const missing = !known.some(([each]) => each === value);
      at[field] = value === null || (missing && (strict || field === "model"))
        ? usual(field, known) : value;
    }
    return at;
  };

  // --- the page ------------------------------------------------------------------------------------

  const views = [["overlap", "How far languages overlap"], ["breaks", "What an edit breaks"]];
  const radios = views.map(([value, words]) => make("label", {},
    make("input", { type: "radio", name: "view", value }), ` ${words}`));
  const selects = FIELDS.map(([field, words]) =>
    make("label", {}, `${words} `, make("select", { name: field })));
  const form = make("form", { "aria-label": "What is shown" },
    make("fieldset", {}, make("legend", {}, "Show"), ...radios), make("div", {}, ...selects));
  const sentence = make("p", { role: "status" });
  const figure = make("div", { class: "mm-figure" }), table = make("div"), layers = make("div");
  const details = make("details", {}, make("summary", {}, "Values by layer"), layers);
  const source = make("p");
  root.append(form, sentence, figure, table, details, source);

  const fill = (select, options, value) => {
    if (!options.some(([each]) => each === value))
      options = [...options, [value, `${value}: not measured`]];
    if (select.dataset.options !== JSON.stringify(options)) {
      select.replaceChildren(...options.map(([each, words]) =>
        make("option", { value: each }, words)));
      select.dataset.options = JSON.stringify(options);
    }
    select.value = value;
  };
  const tabulate = (caption, heads, rows, marked) => make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)))),
    make("tbody", {}, ...rows.map(([first, ...cells], i) => make("tr",
      i === marked ? { class: "mm-marked" } : {}, make("th", { scope: "row" }, first),
      ...cells.map((cell) => make("td", {}, cell))))));
  const key = (entries) => make("ul", {}, ...entries.map(([look, words]) => make("li", {},
    make("svg", { width: 30, height: 10, "aria-hidden": "true" }, look(2, 28, 5)), ` ${words}`)));

  // --- drawing ---------------------------------------------------------------------------------------

  const line = (d, colour, width, more = {}) =>
    make("path", { d, fill: "none", stroke: colour, "stroke-width": width, ...more });
  const dot = (x, y, colour, hollow, words) => make("circle", { cx: x, cy: y, r: hollow ? 4 : 4.5,
    fill: hollow ? "none" : colour, stroke: colour, "stroke-width": 1.5 },
  words ? make("title", {}, words) : null);
  const write = (x, y, words, anchor = "middle") =>
    make("text", { x, y, "text-anchor": anchor, fill: "currentColor", "font-size": 12 }, words);
  const canvas = (height, words) => {
    const width = Math.max(300, Math.min(720, figure.clientWidth || 720));
    const size = { viewBox: `0 0 ${width} ${height}`, width, height };
    return [make("svg", { ...size, role: "img", "aria-label": words }), width];
  };
  const DASHES = { chance: "6 3", "same language": "8 3 2 3", untrained: "2 3" };
  const CONTROLS = { "same language": "same language, two samples", untrained: "untrained network" };

  function showOverlap(m, at) {
    const cell = m.values[at.k]?.[at.pair], place = at.layer === "all" ? 0 : Number(at.layer) + 1;
    const where = place ? `layer ${at.layer}` : "whole model";
    const value = (of, list, i) => of?.[list]?.[i];
    const shown = (of, i) => withInterval(value(of, "mean", i), value(of, "low", i),
      value(of, "high", i), 3);
    const controls = (of, i) => [told(value(of?.pair, "chance", i), 3),
      ...keys(CONTROLS).map((control) => told(value(of?.[control], "mean", i), 3))];
    const [chance, same, untrained] = controls(cell, place);
    const n = cell ? samples(cell.pair.n) + (cell.pair.low ? ", 95\u00a0% interval" : "") : "no run";
    sentence.textContent = `${m.id}, ${pairName(at.pair)}, keep ratio ${at.k}, ${where}: Jaccard `
      + `${shown(cell?.pair, place)} (${n}); chance ${chance}, same language ${same}, untrained `
      + `network ${untrained}.`;

    const height = 320, [left, right, top, bottom] = [42, 8, 10, 42];
    const [svg, width] = canvas(height, `Jaccard by layer. ${sentence.textContent} All values are `
      + "in the tables below.");
    const x = (layer) => left + (width - left - right) * (layer + .5) / m.depth;
    const y = (jaccard) => height - bottom - (height - top - bottom) * jaccard;
    const curve = (list) => (list ?? []).slice(1).map((v, i, all) => v === null ? ""
      : `${i && all[i - 1] !== null ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join("");
    for (const tick of [0, .2, .4, .6, .8, 1]) svg.append(
      line(`M${left} ${y(tick)}H${width - right}`, "currentColor", .6, { "stroke-opacity": .25 }),
      write(left - 6, y(tick) + 4, tick.toFixed(1), "end"));
    const step = Math.ceil(m.depth / 12);
    for (let i = 0; i < m.depth; i += step) svg.append(write(x(i), height - bottom + 16, i));
    svg.append(write((left + width) / 2, height - 6, "layer"));
    if (place) svg.append(line(`M${x(place - 1)} ${top}V${height - bottom}`, "currentColor", 14,
      { "stroke-opacity": .12 }));
    for (const [pair, other] of Object.entries(m.values[at.k] ?? {})) if (pair !== at.pair)
      svg.append(line(curve(other.pair.mean), "currentColor", 1, { "stroke-opacity": .3 }));
    const colour = data.between;
    const lines = { chance: cell?.pair.chance, ...Object.fromEntries(
      keys(CONTROLS).map((control) => [control, cell?.[control]?.mean])) };
    for (const [control, list] of Object.entries(lines))
      svg.append(line(curve(list), "currentColor", 1.4, { "stroke-dasharray": DASHES[control] }));
    svg.append(line(curve(cell?.pair.mean), colour, 2));
    cell?.pair.mean.forEach((v, i) => {
      if (!i || v === null) return;
      const [low, high] = [value(cell.pair, "low", i), value(cell.pair, "high", i)];
      if (Number.isFinite(low)) svg.append(line(`M${x(i - 1)} ${y(low)}V${y(high)}`, colour, 1.4));
      svg.append(dot(x(i - 1), y(v), colour, false, `layer ${i - 1}: ${shown(cell.pair, i)}`));
    });
    if (!cell) svg.append(write((left + width) / 2, height / 2, "not measured"));
    const dashed = (control) => (a, b, h) => line(`M${a} ${h}H${b}`, "currentColor", 1.4,
      { "stroke-dasharray": DASHES[control] });
    figure.replaceChildren(svg, key([
      [(a, b, h) => make("g", {}, line(`M${a} ${h}H${b}`, colour, 2), dot((a + b) / 2, h, colour)),
        pairName(at.pair)],
      [(a, b, h) => line(`M${a} ${h}H${b}`, "currentColor", 1, { "stroke-opacity": .3 }),
        "other pairs"],
      [dashed("chance"), "chance at the same set sizes"],
      ...keys(CONTROLS).map((control) => [dashed(control), CONTROLS[control]
        + (cell?.[control] ? ` (n = ${cell[control].n})` : ": not measured")]),
    ]));

    const heads = ["Jaccard", "chance", "same language", "untrained"];
    const pairs = data.pairs, of = (pair) => m.values[at.k]?.[pair];
    table.replaceChildren(tabulate(
      `Every pair, keep ratio ${at.k}, ${where}; n: calibration samples`, ["pair", ...heads, "n"], pairs.map((pair) => [pairName(pair),
        shown(of(pair)?.pair, place), ...controls(of(pair), place), of(pair)?.pair.n ?? "–"]),
      pairs.indexOf(at.pair)));
    layers.replaceChildren(tabulate(`${pairName(at.pair)}, keep ratio ${at.k}, by layer`,
      ["layer", ...heads], [...Array(m.depth).keys()].map((i) =>
        [i, shown(cell?.pair, i + 1), ...controls(cell, i + 1)]), place - 1));
  }

  function showBreaks(m, at) {
    const random = m.controls[at.edit], cells = m.values[at.edit]?.[at.measure]?.[at.k] ?? {};
    const beside = m.values[random]?.[at.measure]?.[at.k] ?? {};
    const scaled = (cell) => (cell ?? []).map((v, i) => i < 4 && v !== null ? v * m.scale : v);
    const shown = (cell) => cell ? withInterval(...scaled(cell).slice(1, 4), m.digits)
      : "not measured";
    const codes = m.languages, sizes = Object.values(cells)[0];
    sentence.textContent = `${m.id}, ${at.edit}, keep ratio ${at.k}, measured on ${at.measure}: change `
      + `in ${m.unit} against ${m.before}; `
      + (sizes ? `${samples(sizes[5])}, ${m.interval}.` : "not measured.");

    const row = 34, [left, right, top, bottom] = [76, 14, 8, 44];
    const height = top + row * codes.length + bottom;
    const [svg, width] = canvas(height, `Change by language, in ${m.unit}. `
      + codes.map((code) => `${name(code)} ${shown(cells[code])}`).join("; ")
      + ". All values are in the table below.");
    const ends = [...Object.values(cells), ...Object.values(beside)].flatMap((cell) =>
      scaled(cell).slice(1, 4)).filter(Number.isFinite);
    const [low, high] = [Math.min(0, ...ends), Math.max(0, ...ends)], span = high - low || 1;
    const rough = span / 4, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 2.5, 5, 10].find((s) => s * power >= rough);
    const [first, last] = [Math.floor(low / step), Math.max(Math.ceil(high / step), low ? 0 : 1)];
    const x = (v) => left + (width - left - right) * (v / step - first) / (last - first);
    for (let i = first; i <= last; i++) svg.append(
      line(`M${x(i * step)} ${top}V${height - bottom}`, "currentColor", i ? .6 : 1.4,
        { "stroke-opacity": i ? .25 : .8 }),
      write(x(i * step), height - bottom + 16, number(i * step, step < 1 ? m.digits : 0)));
    svg.append(write((left + width - right) / 2, height - 6, `${m.unit} (${m.worse}: worse)`));
    const draw = (cell, y, colour, hollow, words) => {
      const [, mean, from, to] = scaled(cell);
      if (Number.isFinite(from)) svg.append(line(`M${x(from)} ${y}H${x(to)}`, colour, 1.6));
      svg.append(dot(x(mean), y, colour, hollow, `${words}: ${shown(cell)}`));
    };
    codes.forEach((code, i) => {
      const y = top + row * (i + .5), colour = data.languages[code].colour;
      svg.append(write(left - 8, y + 4, name(code), "end"));
      if (cells[code]) draw(cells[code], y - (random ? 6 : 0), colour, false, at.edit);
      else svg.append(write((left + width - right) / 2, y + 4, "not measured"));
      if (beside[code]) draw(beside[code], y + 6, "currentColor", true, random);
    });
    const ink = [(a, b, h) => dot((a + b) / 2, h, "currentColor", true),
      random ?? "as many random weights: not measured beside this edit"];
    figure.replaceChildren(svg, key([
      [(a, b, h) => dot((a + b) / 2, h, "currentColor"), at.edit],
      ...(at.edit.endsWith(": random") || m.before.includes("random") ? [] : [ink])]));

    const heads = ["language", m.before.replace("the ", ""), "change",
      ...(random ? ["change, random"] : []), "n"];
    table.replaceChildren(tabulate(`${at.edit}, keep ratio ${at.k}, ${at.measure}: change in `
      + `${m.unit}; n: problems × calibration samples`, heads, codes.map((code) => [name(code), told(scaled(cells[code])[0], m.digits),
        shown(cells[code]), ...(random ? [shown(beside[code])] : []),
        cells[code] ? `${cells[code][4]} × ${cells[code][5]}` : "–"])));
  }

  // --- one way: a choice changes the address, the address changes the page --------------------

  function render() {
    const query = new URLSearchParams(location.hash.slice(1));
    if (location.hash && !query.has("view")) return; // a link to a heading
    const at = choice(query), m = modelOf(at);
    for (const radio of form.elements.view) radio.checked = radio.value === at.view;
    FIELDS.forEach(([field, , view, options], i) => {
      const select = form.elements[field];
      selects[i].hidden = select.disabled = Boolean(view) && view !== at.view;
      if (!select.disabled) fill(select, options(m, at), at[field]);
    });
    details.hidden = at.view !== "overlap";
    (at.view === "overlap" ? showOverlap : showBreaks)(m, at);
    source.replaceChildren("How it was measured: ", make("a", { href: `${m.page}.html` },
      `chapter ${m.page.match(/\d+/)[0]}`), ".");
  }
  form.addEventListener("change", () => {
    location.hash = new URLSearchParams(choice(new URLSearchParams(new FormData(form)), true));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", render);
  window.addEventListener("resize", render);
  render();
});
