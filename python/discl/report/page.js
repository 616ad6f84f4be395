"use strict";
// The threshold explorer: columns of the embedded JSON come in, what the slider moves in and out is shown.
(() => {
  const block = document.getElementById("explorer-data");
  if (!block) return;
  const data = JSON.parse(block.textContent);
  const at = (id) => document.getElementById(id);
  const slider = at("slider");
  const start = Number(slider.dataset.start);
  const SHOWN = 24;
  const rows = data.score.map((_, row) => row);
  const pictured = rows.filter((row) => String(row) in data.pictures);

  const count = (threshold) => {
    const cut = Math.round((threshold - start) * 10000);
    const made = data.levels.map(() => 0), taken = data.levels.map(() => 0);
    const alive = new Set();
    let movedIn = 0, movedOut = 0;
    for (const row of rows) {
      const accepted = data.score[row] >= cut;
      made[data.level[row]] += 1;
      if (accepted) { taken[data.level[row]] += 1; alive.add(data.class[row]); }
      if (accepted && !data.kept[row]) movedIn += 1;
      if (!accepted && data.kept[row]) movedOut += 1;
    }
    return { cut, made, taken, movedIn, movedOut, alive: alive.size };
  };

  const score = (row) => (start + data.score[row] / 10000).toFixed(3);
  const percent = (part, whole) => (whole ? `${Math.round((100 * part) / whole)}%` : "–");
  const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

  const figure = (row) => {
    const box = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
    const about = `${data.classes[data.class[row]]}, level ${data.levels[data.level[row]]}`;
    image.src = data.pictures[row];
    image.alt = `${about}, text score ${score(row)}`;
    image.title = image.alt;
    caption.textContent = score(row);
    box.append(image, caption);
    return box;
  };

  const fill = (name, total, cut, moved) => {
    const flipped = pictured.filter(moved).sort((a, b) => Math.abs(data.score[a] - cut) - Math.abs(data.score[b] - cut));
    const pane = at(`${name}-thumbs`);
    pane.replaceChildren(...flipped.slice(0, SHOWN).map(figure));
    const hidden = total - Math.min(flipped.length, SHOWN);
    const note = document.createElement("p");
    note.textContent = total === 0 ? "Nothing." : hidden > 0 ? `and ${hidden.toLocaleString("en")} more` : "";
    if (note.textContent) pane.append(note);
    at(`${name}-count`).textContent = total.toLocaleString("en");
  };

  const show = () => {
    const threshold = Number(slider.value), { low, high } = data.axis, now = count(threshold);
    at("explorer").style.setProperty("--t", `${(100 * (threshold - low)) / (high - low)}%`);
    at("threshold-value").textContent = threshold.toFixed(3);
    slider.setAttribute("aria-valuetext", `threshold ${threshold.toFixed(3)}`);
    data.levels.forEach((level, place) => {
      at(`share-${level}`).textContent = `${percent(now.taken[place], now.made[place])} kept`;
    });
    fill("in", now.movedIn, now.cut, (row) => data.score[row] >= now.cut && !data.kept[row]);
    fill("out", now.movedOut, now.cut, (row) => data.score[row] < now.cut && data.kept[row]);
    const taken = now.taken.reduce((a, b) => a + b, 0), empty = data.classes.length - now.alive;
    const images = rows.length < data.of
      ? `${taken.toLocaleString("en")} of the ${rows.length.toLocaleString("en")} shown` : plural(taken, "image");
    at("summary").textContent = `${percent(taken, rows.length)} accepted (${images}); ` +
      (empty ? `${plural(empty, "class").replace("classs", "classes")} left without any.` : "every class has some.");
    at("reset").disabled = Math.abs(threshold - start) < 1e-9;
  };

  // The native steps of step="any" are too coarse for scores: an arrow moves a two-hundredth of the axis.
  slider.addEventListener("keydown", (event) => {
    const turn = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (!turn) return;
    event.preventDefault();
    slider.value = Number(slider.value) + (turn * (data.axis.high - data.axis.low)) / 200;
    show();
  });
  slider.addEventListener("input", show);
  at("reset").addEventListener("click", () => { slider.value = start; show(); });
  const wanted = /[#&]t=([\d.-]+)/.exec(location.hash); // report.html#t=0.42 opens at that threshold
  if (wanted) slider.value = Number(wanted[1]);
  show();
})();
