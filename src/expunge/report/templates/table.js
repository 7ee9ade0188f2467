"use strict";
(() => {
  for (const box of document.querySelectorAll("[data-table]")) {
    const body = box.querySelector("tbody");
    const rows = Array.from(body.rows);
    const find = (name) => box.querySelector(`[data-role="${name}"]`);
    const search = find("search"), size = find("size"), count = find("count");
    const previous = find("previous"), next = find("next");
    const texts = rows.map((row) => row.textContent.toLowerCase());
    let order = rows.map((_, i) => i), page = 0;

    const show = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = order.filter((i) => words.every((word) => texts[i].includes(word)));
      const step = Number(size.value) || found.length || 1;
      page = Math.max(0, Math.min(page, Math.ceil(found.length / step) - 1));
      const visible = new Set(found.slice(page * step, (page + 1) * step));
      rows.forEach((row, i) => { row.hidden = !visible.has(i); });
      const first = found.length ? page * step + 1 : 0;
      count.textContent = found.length ? `${first}–${Math.min(first + step - 1, found.length)} of ${found.length}` : "no match";
      previous.disabled = page === 0;
      next.disabled = (page + 1) * step >= found.length;
    };

    const sort = (header, key) => {
      const ascending = header.getAttribute("aria-sort") === "descending";
      for (const other of box.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const value = (i) => Number(rows[i].dataset[key] || -1);
      order.sort((a, b) => (ascending ? value(a) - value(b) : value(b) - value(a)) || a - b);
      body.append(...order.map((i) => rows[i]));
      page = 0;
      show();
    };

    for (const header of box.querySelectorAll("th[data-key]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(header, header.dataset.key));
    }
    search.addEventListener("input", () => { page = 0; show(); });
    size.addEventListener("change", () => { page = 0; show(); });
    previous.addEventListener("click", () => { page -= 1; show(); });
    next.addEventListener("click", () => { page += 1; show(); });
    box.classList.add("scripted");
    show();
  }
})();
