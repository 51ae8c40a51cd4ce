"use strict";
// What report.html does in the browser: labels are mended, images shown whole, the page reloaded
// while its run goes on. It asks nothing of a network. Names become text, never markup.
(() => {
  const data = JSON.parse(document.getElementById("mend").dataset.mend);
  const figures = [...document.querySelectorAll("figure[data-image]")];
  const stored = "grandmaster " + data.name;

  function make(tag, text, className) {
    const element = document.createElement(tag);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  function kept(name, value) {      // of this tab; a browser may forbid it
    try {
      if (value === undefined) return JSON.parse(sessionStorage.getItem(stored + name));
      sessionStorage.setItem(stored + name, JSON.stringify(value));
    } catch { /* then a reload forgets it */ }
    return null;
  }

  // ------------------------------------------------------------ decisions: {id: label}

  const before = new Map(data.images.map(([id, label]) => [id, label]));
  const earlier = new Map(data.fixes.map((fix) => [fix.sample_id, fix]));
  const decided = new Map(kept(" decided") || []);
  const undone = [];
  let isSaved = decided.size === 0;

  const titles = new Map(data.classes.map((value, k) => [value, data.titles[k]]));
  const imageOf = (figure) => data.images[Number(figure.dataset.image)];

  function decide(figure, label) {
    const [id] = imageOf(figure);
    undone.push([id, decided.get(id)]);
    decided.set(id, label);
    changed(id);
  }

  function undo() {
    if (!undone.length) return;
    const [id, label] = undone.pop();
    if (label === undefined) decided.delete(id);
    else decided.set(id, label);
    changed(id);
    const figure = figures.find((other) => imageOf(other)[0] === id);
    if (!whole.open) figure.focus();
  }

  function words(id) {
    if (!decided.has(id)) return "";
    const label = decided.get(id);
    if (label === "") return "left out";
    return label === before.get(id) ? "kept" : "→ " + titles.get(label);
  }

  function changed(id) {
    isSaved = false;
    kept(" decided", [...decided]);
    for (const figure of figures) if (imageOf(figure)[0] === id) show(figure);
    count();
  }

  function show(figure) {
    const text = words(imageOf(figure)[0]);
    figure.querySelector("output").textContent = text;
    figure.classList.toggle("decided", text !== "");
    if (whole.open && whole.figure === figure) whole.querySelector("output").textContent = text;
  }

  function count() {
    let out = 0, same = 0;
    for (const [id, label] of decided) {
      if (label === "") out += 1;
      else if (label === before.get(id)) same += 1;
    }
    const parts = [`${decided.size - out - same} relabelled`, `${out} left out`, `${same} kept`];
    if (earlier.size) parts.push(`${earlier.size} of an earlier file`);
    bar.querySelector("output").textContent = parts.join(", ");
    bar.querySelector(".undo").disabled = !undone.length;
    bar.querySelector(".save").disabled = decided.size + earlier.size === 0;
  }

  // ------------------------------------------------------------ label_fixes.csv

  function cell(text) {       // as utils.quoted_cell, and quoted
    const runs = /^'*[=+\-@\t\r]/.test(text) && !/^[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?$/.test(text);
    return '"' + ((runs ? "'" : "") + text).replaceAll('"', '""') + '"';
  }

  function rows() {
    const found = new Map();
    for (const [id, fix] of earlier) found.set(id, [id, fix.label, "of an earlier file"]);
    for (const [id, label] of decided) {
      const note = label === "" ? "left out" : label === before.get(id) ? "kept"
        : "relabelled, was " + before.get(id);
      found.set(id, [id, label, note]);
    }
    return [["id", "label", "note"], ...found.values()];
  }

  function save() {
    const text = rows().map((row) => row.map(cell).join(",") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
    link.download = "label_fixes.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    isSaved = true;
    bar.querySelector("code").textContent = data.command;
    bar.querySelector(".after").hidden = false;
  }

  // ------------------------------------------------------------ controls

  function button(text, does, className) {
    const made = make("button", text, className);
    made.type = "button";
    made.addEventListener("click", does);
    return made;
  }

  function controls(figure) {
    const [id, label, answer] = imageOf(figure);
    const box = make("div", "", "choice");
    box.append(button("keep", () => decide(figure, label)));
    if (answer !== null && answer !== label) {
      box.append(button("accept", () => decide(figure, answer)));
    }
    box.append(button("leave out", () => decide(figure, "")));
    const select = make("select", "");
    select.append(make("option", "other …"));
    for (const value of data.classes) {
      const option = make("option", titles.get(value));
      option.value = value;
      select.append(option);
    }
    select.setAttribute("aria-label", "another label of " + id);
    select.addEventListener("change", () => {
      if (select.selectedIndex) decide(figure, data.classes[select.selectedIndex - 1]);
      select.selectedIndex = 0;
      figure.focus();
    });
    box.append(select);
    for (const control of box.children) control.tabIndex = -1;      // the keys do the same
    figure.tabIndex = 0;
    figure.setAttribute("role", "group");
    figure.setAttribute("aria-label", id + ", labelled " + titles.get(label));
    const said = make("output", "");
    said.setAttribute("aria-live", "polite");
    figure.append(said, box);
  }

  function act(event, figure) {      // whether the key meant something
    const [, label, answer] = imageOf(figure);
    const key = event.key.toLowerCase();
    if (event.altKey || event.metaKey || event.ctrlKey) return false;
    if (/^[1-9]$/.test(key) && data.classes[key - 1] !== undefined) {
      decide(figure, data.classes[key - 1]);
    } else if (key === "k") decide(figure, label);
    else if (key === "a" && answer !== null) decide(figure, answer);
    else if (key === "0" || key === "x" || key === "delete") decide(figure, "");
    else if (key === "r" && !whole.open) figure.querySelector("select").focus();
    else return false;
    return true;
  }

  function move(figure, steps) {
    const next = figures[figures.indexOf(figure) + steps];
    if (!next) return;
    const folded = next.closest("details");
    if (folded) folded.open = true;
    next.focus();
    next.scrollIntoView({block: "nearest"});
  }

  const bar = document.getElementById("mending");
  const STEPS = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1};

  document.addEventListener("keydown", (event) => {
    if (event.target.matches("select, input, textarea")) {
      if (event.key === "Escape") event.target.closest("figure")?.focus();
      return;
    }
    const figure = whole.open ? whole.figure : event.target.closest("figure[data-image]");
    const isUndo = event.key === "u" || (event.key === "z" && (event.ctrlKey || event.metaKey));
    if (isUndo && !event.altKey && undone.length) undo();
    else if (whole.open && zoomed(event.key)) { /* done */ }
    else if (!figure || !figure.dataset.image) return;
    else if (act(event, figure)) { /* done */ }
    else if (whole.open || event.target !== figure) return;
    else if (STEPS[event.key]) move(figure, STEPS[event.key]);
    else if (event.key === "Enter" || event.key === " ") open(figure);
    else return;
    event.preventDefault();
  });

  // ------------------------------------------------------------ the whole image

  const whole = document.getElementById("whole");
  const picture = whole.querySelector("img");
  let zoom = 1;

  function open(figure) {
    const image = figure.querySelector("img");
    whole.figure = figure;
    picture.src = image.src;
    picture.alt = image.alt;
    whole.querySelector("p").textContent = figure.querySelector("figcaption").innerText;
    whole.querySelector("output").textContent = figure.querySelector("output")?.textContent || "";
    whole.showModal();
    picture.decode().then(() => zoomTo(1), () => {});
    whole.querySelector(".frame").focus();
  }

  function zoomTo(factor) {
    zoom = Math.min(8, Math.max(1, factor));
    const frame = whole.querySelector(".frame");
    const fit = Math.min(frame.clientWidth / picture.naturalWidth,
      0.68 * innerHeight / picture.naturalHeight);
    picture.style.width = picture.naturalWidth * fit * zoom + "px";
  }

  function zoomed(key) {
    if (key === "+" || key === "=") zoomTo(zoom * 1.5);
    else if (key === "-") zoomTo(zoom / 1.5);
    else return false;
    return true;
  }

  whole.querySelector(".in").addEventListener("click", () => zoomTo(zoom * 1.5));
  whole.querySelector(".out").addEventListener("click", () => zoomTo(zoom / 1.5));
  whole.querySelector(".close").addEventListener("click", () => whole.close());
  picture.addEventListener("click", () => zoomTo(zoom === 1 ? 3 : 1));
  whole.addEventListener("close", () => { if (whole.figure.tabIndex === 0) whole.figure.focus(); });
  for (const figure of document.querySelectorAll("figure.picture")) {
    figure.querySelector("img").addEventListener("click", () => open(figure));
  }

  // ------------------------------------------------------------ begin

  for (const figure of figures) controls(figure);
  if (figures.length || earlier.size) {
    bar.hidden = false;
    document.getElementById("keys").hidden = !figures.length;
    bar.querySelector(".undo").addEventListener("click", undo);
    bar.querySelector(".save").addEventListener("click", save);
    figures.forEach(show);
    count();
    new ResizeObserver(() => {      // a focused card stops above the bar and its own outline
      document.documentElement.style.scrollPaddingBottom = bar.offsetHeight + 8 + "px";
    }).observe(bar);
  }

  // ------------------------------------------------------------ fresh while the run goes on

  const SOON = 15, SELDOM = 300, LONGEST = 24 * 3600;      // seconds
  let isReloading = false;

  function keepFresh() {      // less and less often while nothing is new
    const last = kept(" fresh");
    const isSame = last !== null && last.stamp === data.stamp;
    const wait = isSame ? Math.min(2 * last.wait, SELDOM) : SOON;
    const waited = isSame ? last.waited + wait : 0;
    if (waited < LONGEST) setTimeout(reload, 1000 * wait, {stamp: data.stamp, wait, waited});
  }

  function reload(next) {
    const isUsed = whole.open || document.activeElement.matches("select")
      || String(getSelection()) !== "";
    if (document.hidden || isUsed) {
      setTimeout(reload, 2000, next);
      return;
    }
    const focused = document.activeElement.closest("figure[data-image]");
    kept(" fresh", next);
    kept(" place", {focused: focused && imageOf(focused)[0],
      folds: foldsOf().map(([text, fold]) => [text, fold.open])});
    isReloading = true;
    location.reload();
  }

  function foldsOf() {      // [(summary without numbers, details)]
    return [...document.querySelectorAll("details")].map(
      (fold) => [fold.querySelector("summary").textContent.replace(/[0-9]+/g, ""), fold]);
  }

  const place = kept(" place");
  if (place) {
    const open = new Map(place.folds);
    for (const [text, fold] of foldsOf()) if (open.has(text)) fold.open = open.get(text);
    const focused = figures.find((figure) => imageOf(figure)[0] === place.focused);
    if (focused) focused.focus({preventScroll: true});
    kept(" place", null);
  }
  if (data.running) keepFresh();
  window.addEventListener("beforeunload", (event) => {
    if (!isSaved && !isReloading) event.preventDefault();
  });
})();
