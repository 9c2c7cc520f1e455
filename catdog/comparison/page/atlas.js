// The error atlas: filters the list, shows it in pages, and opens an image. Without JavaScript the whole list is shown.
(() => {
  const source = document.getElementById("atlas-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const NOTHING = 65535, BY = ["1", "2", "3"];
  const KINDS = ["nearly always wrong", "fixed", "broken", "seed noise"];

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const shorts = (text) => new Uint16Array(bytes(text).buffer);
  const count = data.files.length;
  const labels = shorts(data.labels), suspects = shorts(data.suspects);
  const kinds = bytes(data.kinds), by = shorts(data.by), ranks = new Uint32Array(bytes(data.ranks).buffer);
  const right = shorts(data.right), trust = bytes(data.trust), answers = bytes(data.answers);
  const said = data.said && shorts(data.said), sure = data.sure && bytes(data.sure);
  const binary = data.classes.length === 2;
  const names = data.files.map((name) => name.toLowerCase());
  // Rows in `answers`, variant by variant.
  let total = 0;
  for (const variant of data.variants) { variant.first = total; total += variant.seeds.length; }

  const form = document.querySelector(".filters"), list = document.querySelector(".shots");
  const more = document.getElementById("more"), output = form.querySelector("output");
  const meaning = form.querySelector(".meaning");
  const rows = Array.from(list.children);
  // The element of a row that gets the keyboard focus and that a screen reader announces as a button.
  const handles = rows.map((row) => row.querySelector(".picture"));
  const captions = rows.map((row) => row.querySelector(".kind"));
  const page = Number(list.dataset.rows);
  let found = [], limit = page, here = 0;

  const value = (name) => (form[name] ? form[name].value : "");
  const reference = () => Number(value("reference") || 0);
  const at = (array, variant, image) => array[Number(variant) * count + image];
  const element = (tag, text, style) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (style) made.className = style;
    return made;
  };

  const describe = (image) => {
    const seen = reference(), kind = at(kinds, seen, image), mask = at(by, seen, image);
    const who = data.variants.filter((_, number) => mask & (1 << number)).map((variant) => variant.name);
    return kind === 1 || kind === 2 ? `${KINDS[kind]} by ${who.join(", ")}` : KINDS[kind];
  };

  const fits = (image, chosen) => {
    const seen = reference(), variant = value("variant"), label = value("label");
    if (chosen === "suspect" ? suspects[image] === NOTHING : chosen !== "all" && at(kinds, seen, image) !== Number(chosen)) return false;
    if (label !== "" && labels[image] !== Number(label)) return false;
    // Fixed or broken by the variant, or its seeds disagree; in the other lists, any mistake of the variant.
    if (variant !== "" && (BY.includes(chosen) ? !(at(by, seen, image) & (1 << Number(variant))) : at(right, Number(variant), image) === data.variants[variant].runs)) return false;
    return names[image].includes(value("file").trim().toLowerCase());
  };

  const roam = (place, focus) => {
    if (!found.length) return;
    handles[found[here]]?.setAttribute("tabindex", "-1");
    here = Math.max(0, Math.min(place, Math.min(limit, found.length) - 1));
    handles[found[here]].setAttribute("tabindex", "0");
    if (focus) { handles[found[here]].focus({ preventScroll: true }); rows[found[here]].scrollIntoView({ block: "nearest" }); }
  };

  const update = (keep = false) => {
    if (!keep) limit = page;
    const seen = reference(), chosen = value("list");
    const everywhere = Array.from({ length: count }, (_, image) => image);
    for (const input of form.querySelectorAll("[name=list]")) {
      const times = everywhere.filter((image) => fits(image, input.value)).length;
      input.nextElementSibling.querySelector("b").textContent = times;
      if (input.checked) meaning.textContent = input.dataset.meaning;
    }
    found = everywhere.filter((image) => fits(image, chosen));
    const variant = value("variant");
    if (chosen === "all" && variant !== "") {
      meaning.textContent = `Every mistake of ${data.variants[variant].name}: the images that most of its runs get wrong first, then those with the lowest probability of the true class.`;
      found.sort((a, b) => at(right, variant, a) - at(right, variant, b) || at(trust, variant, a) - at(trust, variant, b));
    } else {
      found.sort((a, b) => at(kinds, seen, a) - at(kinds, seen, b) || at(ranks, seen, a) - at(ranks, seen, b));
    }
    const shown = found.slice(0, limit);
    for (const image of shown) captions[image].textContent = describe(image);
    list.replaceChildren(...shown.map((image) => rows[image]));
    output.textContent = !found.length ? "No such image." : shown.length < found.length ? `${shown.length} of ${found.length} shown` : `${found.length} shown`;
    more.hidden = shown.length === found.length;
    more.textContent = `Show ${Math.min(page, found.length - shown.length)} more`;
    if (!keep) { for (const handle of handles) handle.setAttribute("tabindex", "-1"); here = 0; }
    roam(here);
  };

  rows.forEach((row, image) => {
    row.classList.add("live");
    handles[image].setAttribute("role", "button");
    handles[image].setAttribute("aria-haspopup", "dialog");
    handles[image].setAttribute("aria-label", `${data.files[image]}, ${data.classes[labels[image]]}`);
    row.dataset.image = image;
  });
  list.addEventListener("click", (event) => {
    const row = event.target.closest("li");
    if (row) open(found.indexOf(Number(row.dataset.image)));
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: Infinity, PageDown: here + 8, PageUp: here - 8 }[event.key];
    if (step !== undefined) { event.preventDefault(); roam(step, true); }
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(here); }
  });
  form.addEventListener("input", () => update());
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const next = limit;
    limit += page;
    update(true);
    // The keyboard focus moves to the first new image, not to the button's new place.
    roam(next, true);
  });

  const dialog = document.getElementById("shot");
  const part = (name) => dialog.querySelector(name);
  const maps = data.cams && { images: shorts(data.cams.images), variants: data.cams.variants.map((variant) => ({
    ...variant, said: shorts(variant.said), sure: bytes(variant.sure), predicted: bytes(variant.predicted), labelled: bytes(variant.labelled),
  })) };

  const open = (place) => {
    if (place < 0 || place >= found.length) return;
    if (place >= limit) { limit = place + 1; update(true); }
    roam(place);
    show(found[place]);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    part("#shot-title").focus();
  };

  const picture = (image) => {
    const made = element("div", handles[image].textContent, handles[image].className);
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", data.classes[labels[image]]);
    return made;
  };

  const show = (image) => {
    const label = data.classes[labels[image]];
    part("#shot-title").replaceChildren(`${label} `, element("span", data.files[image], "quiet"));
    part(".large").replaceChildren(picture(image));
    const facts = part(".facts");
    const kind = describe(image);
    facts.replaceChildren(element("p", `${kind[0].toUpperCase()}${kind.slice(1)}${kind.startsWith("fixed") || kind.startsWith("broken") ? ", as seen from " + data.variants[reference()].name : ""}.`));
    if (suspects[image] !== NOTHING) {
      facts.append(element("p", `The label is suspect: by the answers of ${data.best} it is more likely wrong than right. Perhaps it is ${data.classes[suspects[image]]}.`, "warning"));
    }
    const summary = element("ul");
    data.variants.forEach((variant, number) => {
      const line = element("li");
      line.append(swatch(variant), `${variant.name}: ${at(right, number, image)} of ${variant.runs} right; ${label}: ${at(trust, number, image)}\u00a0%${variant.runs > 1 ? " on average" : ""}`);
      summary.append(line);
    });
    facts.append(summary);
    part(".answers").replaceChildren(...data.variants.map((variant, number) => block(variant, number, image)));
    showMaps(image);
    const place = found.indexOf(image);
    part("[value=previous]").disabled = place <= 0;
    part("[value=next]").disabled = place >= found.length - 1;
  };

  const swatch = (variant) => {
    const made = element("span", "", "swatch inline");
    made.style.setProperty("--colour", `var(--series-${variant.colour})`);
    return made;
  };

  // The answer of one run: class, its probability, the probability of the true class, and whether it is right.
  const answer = (run, image) => {
    const packed = at(answers, run, image), percent = packed & 127, isRight = packed > 127, label = labels[image];
    if (!binary) return { percent, isRight, said: at(said, run, image), sure: at(sure, run, image) };
    return { percent, isRight, said: isRight ? label : 1 - label, sure: isRight ? percent : 100 - percent };
  };

  const block = (variant, number, image) => {
    const made = element("div"), title = element("h5");
    title.append(swatch(variant), variant.name);
    made.append(title);
    made.style.setProperty("--colour", `var(--series-${variant.colour})`);
    const given = variant.seeds.map((seed, place) => ({ seed, ...answer(variant.first + place, image) }));
    if (given.length > 12) {
      const strip = element("div", "", "strip"), values = given.map((one) => one.percent).sort((a, b) => a - b);
      strip.setAttribute("role", "img");
      const words = `${Math.min(...values)} to ${Math.max(...values)}\u00a0%, half of them up to ${values[values.length >> 1]}\u00a0%`;
      strip.setAttribute("aria-label", words);
      // Sorted, the bars form a readable profile. Of hundreds of runs only a sample is drawn.
      const sorted = [...given].sort((a, b) => a.percent - b.percent), bars = Math.min(sorted.length, 72);
      for (let place = 0; place < bars; place += 1) {
        const one = sorted[Math.floor((place * sorted.length) / bars)];
        const bar = element("i", undefined, one.isRight ? "right" : "wrong");
        bar.style.setProperty("--part", `${one.percent}%`);
        strip.append(bar);
      }
      const cut = given.length < variant.runs ? `; the first ${given.length} of ${variant.runs} runs` : "";
      made.append(strip, element("p", words + cut, "quiet"));
      return made;
    }
    const lines = element("ul");
    for (const one of given) {
      const line = element("li"), bar = element("span", undefined, "bar");
      bar.style.setProperty("--part", `${one.percent}%`);
      const words = `${one.isRight ? "✓" : "✗"} ${data.classes[one.said]}${binary ? "" : ` ${one.sure}\u00a0%`}`;
      const spoken = element("span", words, `said ${one.isRight ? "right" : "wrong"}`);
      spoken.title = words;
      line.append(element("span", `seed ${one.seed}`, "quiet"), bar, element("span", `${one.percent}\u00a0%`, "number"), spoken);
      lines.append(line);
    }
    made.append(lines);
    if (given.length < variant.runs) made.append(element("p", `the first ${given.length} of ${variant.runs} runs`, "quiet"));
    return made;
  };

  const showMaps = (image) => {
    const section = part(".maps");
    section.hidden = !maps;
    if (!maps) return;
    const place = maps.images[image], chosen = dialog.querySelector("[name=map]:checked").value;
    if (place === NOTHING) {
      part(".cams").replaceChildren(element("p", "Grad-CAM is only there for the images highest in each list.", "quiet"));
      return;
    }
    part(".cams").replaceChildren(...maps.variants.map((found) => {
      const variant = data.variants[found.variant], size = found.height * found.width, figure = element("figure");
      const stack = element("div", undefined, "stack"), caption = element("figcaption");
      stack.append(picture(image));
      const target = chosen === "labelled" ? labels[image] : found.said[image];
      const heat = found[chosen]?.subarray(place * size, (place + 1) * size);
      if (heat) stack.append(draw(heat, found.height, found.width, `Grad-CAM of ${variant.name} for ${data.classes[target]}`));
      const isRight = found.said[image] === labels[image];
      caption.append(swatch(variant), `${variant.name}, seed ${found.seed}: `);
      caption.append(element("span", `${isRight ? "✓" : "✗"} ${data.classes[found.said[image]]} ${found.sure[image]}\u00a0%`, `said ${isRight ? "right" : "wrong"}`));
      if (heat && !heat.some((level) => level)) caption.append(`; no evidence for ${data.classes[target]}`);
      figure.append(stack, caption);
      return figure;
    }));
  };

  const draw = (heat, height, width, words) => {
    const canvas = element("canvas");
    canvas.width = width;
    canvas.height = height;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", words);
    const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
    heat.forEach((level, place) => {
      // From transparent through red to yellow: places without evidence for the class stay as they are.
      const part = level / 255;
      pixels.data.set([255, 255 * Math.max(0, 1.7 * part - 0.7), 0, 165 * part], 4 * place);
    });
    context.putImageData(pixels, 0, 0);
    return canvas;
  };

  dialog.addEventListener("click", (event) => {
    const pressed = event.target.closest("button");
    // A click on the dialog element but outside its box is a click on the backdrop.
    const box = dialog.getBoundingClientRect();
    const outside = event.target === dialog && (event.clientX < box.left || event.clientX > box.right || event.clientY < box.top || event.clientY > box.bottom);
    if (outside || pressed?.value === "close") dialog.close();
    else if (pressed) open(here + (pressed.value === "next" ? 1 : -1));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input")) return;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") { event.preventDefault(); open(here + (event.key === "ArrowRight" ? 1 : -1)); }
  });
  dialog.addEventListener("change", () => showMaps(found[here]));
  dialog.addEventListener("close", () => roam(here, true));

  form.hidden = false;
  for (const hint of document.querySelectorAll(".key .script")) hint.hidden = false;
  update();
})();
