"use strict";
// The gallery of a report of cuts3d: filters, sorts and pages the photos of window.report.
// All texts of photos come from strangers: they are set as text, never as HTML.
(() => {
  const report = window.report;
  const $ = (selector, root = document) => root.querySelector(selector);
  const status = $("#status");
  if (!report || !report.finished) {
    status.textContent = "This report is not finished: run the same command again.";
    $("#controls").hidden = true;
    document.querySelectorAll(".pager").forEach((pager) => (pager.hidden = true));
    return;
  }
  const noun = report.source === "detections" ? "detection" : "mask";
  const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  const command = (stage) => (stage.includes(".") ? "selftrain" : stage === "drawing" ? "report" : stage);
  const failedIn = (photo) => `failed in \`cuts3d ${command(photo.failed[0])}\``;
  const percent = (share) => `${(100 * share).toPrecision(share < 0.1 ? 2 : 3)} %`;

  // ---- the photos, and what they are filtered and sorted by
  const photos = report.photos.map((photo, place) => {
    const masks = photo.masks || [];
    const scores = masks.map((mask) => mask[1]);
    const sum = scores.reduce((total, score) => total + score, 0);
    const truth = photo.truth || null;
    const reasons = [];
    if (photo.failed) reasons.push(`${failedIn(photo)}: ${photo.failed[1]}`);
    for (const [, reason] of photo.dropped || []) reasons.push(`dropped: ${reason}`);
    if (photo.stopped) reasons.push(`stopped: ${photo.stopped}`);
    return {
      ...photo,
      place,
      masks,
      truth,
      reasons: [...new Set(reasons)],
      lower: photo.name.toLowerCase(),
      count: masks.length,
      mean: masks.length ? sum / masks.length : null,
      lowest: masks.length ? Math.min(...scores) : null,
      largest: masks.length ? Math.max(...masks.map((mask) => mask[0])) : null,
      falses: masks.filter((mask) => mask[2] === "false").length,
      missed: truth ? truth[1] : null,
      best: truth ? truth[2] : null,
      quality: truth ? truth[3] : null,
    };
  });
  const names = new Intl.Collator("en", { numeric: true });
  // What is not known comes last, whatever the direction; equal photos stay in their order.
  const by = (value, direction) => (one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null) || one.place - other.place;
    return direction * (a - b) || one.place - other.place;
  };
  const sorts = [
    ["quality", "worst first", by((photo) => photo.quality, 1), "compared"],
    ["-quality", "best first", by((photo) => photo.quality, -1), "compared"],
    ["best", "mean best IoU, lowest first", by((photo) => photo.best, 1), "compared"],
    ["-missed", "missed objects, most first", by((photo) => photo.missed, -1), "compared"],
    ["-false", `false ${noun}s, most first`, by((photo) => photo.falses, -1), "compared"],
    ["place", "order in the shards", by((photo) => photo.place, 1)],
    ["name", "name", (one, other) => names.compare(one.name, other.name) || one.place - other.place],
    ["-count", `number of ${noun}s, most first`, by((photo) => photo.count, -1)],
    ["count", `number of ${noun}s, fewest first`, by((photo) => photo.count, 1)],
    ["mean", "mean score, lowest first", by((photo) => photo.mean, 1), "scored"],
    ["-mean", "mean score, highest first", by((photo) => photo.mean, -1), "scored"],
    ["lowest", "lowest score first", by((photo) => photo.lowest, 1), "scored"],
    ["-largest", `largest ${noun} first`, by((photo) => photo.largest, -1)],
    ["depth", "depth, least known first", by((photo) => photo.depth ?? null, 1)],
    ["-reasons", "failed, dropped or stopped first",
      by((photo) => (photo.failed ? 1000 : 0) + (photo.dropped || []).length + (photo.stopped ? 0.5 : 0), -1)],
  ].filter(([, , , needs]) => !needs || report[needs]);

  // ---- the controls
  const form = $("#controls");
  const fields = form.elements;
  for (const part of document.querySelectorAll("[data-needs]")) part.hidden = !report[part.dataset.needs];
  const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
  for (const [value, text] of sorts) fields.sort.append(option(value, text));
  const tally = new Map();
  for (const photo of photos) for (const reason of photo.reasons) tally.set(reason, (tally.get(reason) || 0) + 1);
  const listed = [...tally].sort((one, other) => other[1] - one[1] || names.compare(one[0], other[0])).slice(0, 200);
  if (tally.size) fields.reason.append(option("*", `any (${photos.filter((photo) => photo.reasons.length).length})`));
  fields.reason.append(option("-", `none (${photos.filter((photo) => !photo.reasons.length).length})`));
  // A reason begins with a word and a colon or space, so that it is never taken for "*" or "-".
  for (const [reason, number] of listed) fields.reason.append(option(reason, `${reason} (${number})`));
  $("legend", form).textContent = `Number of ${noun}s`;

  // ---- state: the controls and the page, kept behind the # of the address
  let page = 0;
  let shown = [];
  const restore = () => {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of kept) {
      const field = fields.namedItem(name);
      if (!field || !field.name || (field.type === "number" && !Number.isFinite(Number(value)))) continue;
      field.value = value;
      if (field.tagName === "SELECT" && field.selectedIndex < 0) field.selectedIndex = 0;
    }
    page = Math.max(parseInt(kept.get("page"), 10) || 1, 1) - 1;
  };
  const keep = () => {
    const kept = new URLSearchParams();
    for (const field of fields) {
      const first = field.tagName === "SELECT" ? field.options[0].value : "";
      if (field.name && field.value !== first) kept.set(field.name, field.value);
    }
    if (page) kept.set("page", page + 1);
    // Some browsers let no page from disk change its address; the page works all the same.
    try { history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname + location.search); } catch { /* as it was */ }
  };

  // ---- filtering and sorting
  const limit = (name) => (fields[name].value === "" || Number.isNaN(fields[name].valueAsNumber) ? null : fields[name].valueAsNumber);
  const choose = () => {
    const text = fields.name.value.trim().toLowerCase();
    const [least, most, low, high] = ["least", "most", "low", "high"].map(limit);
    const reason = fields.reason.value;
    const truth = fields.truth.value;
    const fits = (photo) =>
      (!text || photo.lower.includes(text)) &&
      (least === null || photo.count >= least) &&
      (most === null || photo.count <= most) &&
      (low === null || (photo.mean !== null && photo.mean >= low)) &&
      (high === null || (photo.mean !== null && photo.mean <= high)) &&
      (!reason || (reason === "*" ? photo.reasons.length > 0 : reason === "-" ? !photo.reasons.length : photo.reasons.includes(reason))) &&
      (!truth ||
        (truth === "none" ? !photo.truth
          : photo.truth && (truth === "missed" ? photo.missed > 0 : truth === "false" ? photo.falses > 0 : !photo.missed && !photo.falses)));
    const order = sorts.find(([value]) => value === fields.sort.value) || sorts[0];
    shown = photos.filter(fits).sort(order[2]);
  };

  // ---- drawing
  const element = (tag, text, properties = {}) => {
    const made = Object.assign(document.createElement(tag), properties);
    if (text !== null) made.textContent = text;
    return made;
  };
  const picture = (kind, photo) =>
    `${kind}/${String(Math.floor(photo.place / 1000)).padStart(3, "0")}/${String(photo.place).padStart(6, "0")}.jpg`;
  const summary = (photo) => {
    if (photo.truth) {
      const [instances, missed] = photo.truth;
      return `${instances - missed} of ${counted(instances, "object")}, ${photo.falses} false`;
    }
    const score = report.scored && photo.mean !== null ? `, mean score ${photo.mean.toFixed(2)}` : "";
    return counted(photo.count, noun) + score;
  };
  const images = (photo) => {
    const made = [element("img", null, { src: picture("thumbnails", photo), alt: `${noun}s`, loading: "lazy", decoding: "async" })];
    if (photo.truth)
      made.push(element("img", null, { src: picture("truth", photo), alt: "ground truth", loading: "lazy", decoding: "async" }));
    return made;
  };
  const card = (photo, position) => {
    const item = element("li", null, { className: "card" });
    const button = element("button", null, { type: "button" });
    button.setAttribute("aria-label", `${photo.name}: ${summary(photo)}`);
    button.dataset.position = position;
    if (photo.thumbnail) button.append(...images(photo));
    else button.append(element("span", "no picture", { className: "blank" }));
    const name = element("bdi", photo.name, { className: "name", title: photo.name });
    item.append(button, name);
    item.append(element("span", summary(photo), { className: "what" }));
    if (photo.reasons.length) {
      const rest = photo.reasons.length > 1 ? ` and ${photo.reasons.length - 1} more` : "";
      item.append(element("span", photo.reasons[0] + rest, { className: photo.failed ? "reason failed" : "reason", title: photo.reasons.join("\n") }));
    }
    return item;
  };
  const list = $("#photos");
  list.classList.toggle("compared", report.compared);
  const draw = () => {
    const size = Number(fields.size.value);
    const pages = Math.max(Math.ceil(shown.length / size), 1);
    page = Math.min(page, pages - 1);
    const first = page * size;
    list.replaceChildren(...shown.slice(first, first + size).map((photo, place) => card(photo, first + place)));
    if (!shown.length) list.append(element("li", "No photo fits the filters.", { className: "empty" }));
    status.textContent =
      shown.length === photos.length ? counted(photos.length, "photo") : `${shown.length} of ${counted(photos.length, "photo")}`;
    for (const pager of document.querySelectorAll(".pager")) {
      $(".place", pager).textContent = `page ${page + 1} of ${pages}`;
      $('[data-go="-1"]', pager).disabled = page === 0;
      $('[data-go="1"]', pager).disabled = page === pages - 1;
      pager.hidden = pages === 1;
    }
    keep();
  };
  const refresh = () => {
    choose();
    draw();
  };
  form.addEventListener("input", () => {
    page = 0;
    refresh();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { page = 0; refresh(); }));
  document.addEventListener("click", (event) => {
    const go = event.target.closest("[data-go]");
    if (!go) return;
    page += Number(go.dataset.go);
    draw();
    list.focus({ preventScroll: true });
    $(".bar").scrollIntoView();
  });
  window.addEventListener("hashchange", () => {
    form.reset();
    restore();
    refresh();
  });

  // ---- one photo
  const dialog = $("#photo");
  const body = $("#photo-body");
  let current = 0;
  const table = (head, rows) => {
    const made = document.createElement("table");
    const cells = (kind, row) => {
      const line = document.createElement("tr");
      row.forEach((text, place) => line.append(element(kind, text, { className: place && /^[\d.]/.test(text) ? "number" : "" })));
      return line;
    };
    const top = document.createElement("thead");
    top.append(cells("th", head));
    const rest = document.createElement("tbody");
    rest.append(...rows.map((row) => cells("td", row)));
    made.append(top, rest);
    return made;
  };
  const facts = (photo) => {
    const rows = [["shard", photo.shard], ["key", photo.key]];
    if (photo.size) rows.push(["size", `${photo.size[0]} x ${photo.size[1]} pixels`]);
    if (photo.depth !== undefined) rows.push(["depth known", percent(photo.depth)]);
    if (photo.failed) rows.push([failedIn(photo), photo.failed[1]]);
    for (const [iteration, reason] of photo.dropped || []) rows.push([`cut ${iteration} dropped`, reason]);
    if (photo.stopped) rows.push(["stopped", photo.stopped]);
    if (photo.truth) {
      const [instances, missed, best, quality] = photo.truth;
      rows.push(["objects", `${instances}, ${missed} missed`]);
      if (best !== null) rows.push(["mean best IoU", best.toFixed(3)]);
      if (quality !== null) rows.push(["quality", quality.toFixed(3)]);
    }
    const made = document.createElement("table");
    for (const [name, value] of rows) {
      const line = document.createElement("tr");
      line.append(element("th", name, { scope: "row" }), element("td", value));
      made.append(line);
    }
    return made;
  };
  const fill = () => {
    const photo = shown[current];
    $("#photo-name").replaceChildren(element("bdi", photo.name));
    body.replaceChildren();
    if (photo.steps) body.append(element("img", null, { className: "steps", src: picture("steps", photo), alt: "every step" }));
    else if (photo.thumbnail) {
      const pair = element("div", null, { className: "pair" });
      pair.append(...images(photo));
      const hint = element("p", "Every step of this photo: ");
      hint.append(element("code", `cuts3d viz --shards ${photo.shard} --key ${photo.key}`));
      body.append(pair);
      if (report.stage === "pseudo") body.append(hint);
    }
    const columns = element("div", null, { className: "columns" });
    columns.append(facts(photo));
    if (photo.masks.length) {
      const head = [noun, "area", ...(report.scored ? ["score"] : []), ...(photo.truth ? ["verdict"] : [])];
      const row = ([area, score, verdict], place) =>
        [String(place + 1), percent(area), ...(report.scored ? [score.toFixed(3)] : []), ...(photo.truth ? [verdict || ""] : [])];
      columns.append(table(head, photo.masks.map(row)));
    }
    body.append(columns);
    $('[data-step="-1"]', dialog).disabled = current === 0;
    $('[data-step="1"]', dialog).disabled = current === shown.length - 1;
    dialog.scrollTop = 0;
  };
  const step = (by) => {
    if (current + by < 0 || current + by >= shown.length) return;
    current += by;
    fill();
  };
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-position]");
    if (!button) return;
    current = Number(button.dataset.position);
    fill();
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === dialog || (button && "close" in button.dataset)) dialog.close();
    else if (button && button.dataset.step) step(Number(button.dataset.step));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else return;
    event.preventDefault();
  });

  // On a narrow screen the photos come first.
  if (window.matchMedia("(max-width: 40rem)").matches) $(".figures").open = false;
  restore();
  refresh();
})();
