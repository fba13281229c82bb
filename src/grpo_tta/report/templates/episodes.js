// Filters and sorts the episodes. Without this script those of the reference are shown, as they stand.
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const box = document.querySelector(".episodes"), cards = [...box.children], count = form.querySelector("output");
  const show = () => {
    const wanted = Object.fromEntries(new FormData(form)), sign = wanted.order === "place" ? 1 : -1;
    const fits = card => ["outcome", "task", "method"].every(key => !wanted[key] || card.dataset[key] === wanted[key]);
    cards.sort((a, b) => sign * (a.dataset[wanted.order] - b.dataset[wanted.order]) || a.dataset.place - b.dataset.place);
    cards.forEach(card => { card.hidden = !fits(card); });
    box.append(...cards);
    count.value = `${cards.filter(fits).length} of ${cards.length} shown`;
  };
  form.hidden = false;
  form.addEventListener("change", show);
  show();
})();
