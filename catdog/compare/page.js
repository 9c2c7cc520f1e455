// Filters the images that divide the runs, and shows them by the page: without script all of them are simply there.
(() => {
  const PAGE = 48;
  const form = document.querySelector(".filters");
  if (!form) return;
  const list = document.querySelector(".cards");
  const runs = Number(list.dataset.runs);
  const more = document.getElementById("more");
  const output = form.querySelector("output");
  const cards = Array.from(list.children, (element) => ({
    element,
    label: element.dataset.label,
    right: element.dataset.right.split(" "),
  }));
  let limit = PAGE;

  const fits = (card) => {
    if (form.label.value && card.label !== form.label.value) return false;
    const [kind, run] = form.pattern.value.split("-");
    if (kind === "right") return card.right.length === 1 && card.right[0] === run;
    if (kind === "wrong") return card.right.length === runs - 1 && !card.right.includes(run);
    return true;
  };

  const update = () => {
    let found = 0;
    for (const card of cards) card.element.hidden = !(fits(card) && found++ < limit);
    const shown = Math.min(found, limit);
    output.textContent = found === 0 ? "no such image" : shown < found ? `${shown} of ${found} shown` : `${found} shown`;
    more.hidden = shown === found;
    more.textContent = `Show ${Math.min(PAGE, found - shown)} more`;
  };

  form.addEventListener("change", () => { limit = PAGE; update(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const next = cards.filter(fits)[limit];
    limit += PAGE;
    update();
    // Keyboard readers go on where the new images begin, not at the button's new place.
    if (next) { next.element.tabIndex = -1; next.element.focus({ preventScroll: true }); }
  });
  form.hidden = false;
  update();
})();
