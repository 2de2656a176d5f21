// Small conveniences; every page works without them.
"use strict";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) {
    const source = document.getElementById(button.dataset.copy);
    const text = "value" in source ? source.value : source.textContent;
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // The clipboard is unavailable over plain http: select the text and copy it instead.
      source.closest("details")?.setAttribute("open", "");
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1600);
    return;
  }
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.removeAttribute("open");
  }
});

// On a phone, the link to the current page may be outside the window.
document.querySelector("#navigation [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

for (const text of document.querySelectorAll(".long > .text")) {
  if (text.scrollHeight <= text.clientHeight + 40) {
    text.parentElement.classList.remove("long");
    continue;
  }
  const more = document.createElement("button");
  more.type = "button";
  more.className = "button quiet small more";
  more.textContent = "Show all";
  more.addEventListener("click", () => { text.parentElement.classList.remove("long"); more.remove(); });
  text.after(more);
}

// On a phone a row of a list is a card, and each figure names its column.
const headings = [...document.querySelectorAll("#result_list thead th")].map((th) => th.textContent.trim());
for (const row of document.querySelectorAll("#result_list tbody tr")) {
  [...row.children].forEach((cell, at) => { cell.dataset.label = headings[at] || ""; });
}

// The steps of a tool loop are folded under the last one.
for (const button of document.querySelectorAll("button[data-steps]")) {
  const last = button.closest("tr");
  const steps = [...document.querySelectorAll(`[data-step-of="${button.dataset.steps}"]`)].map((mark) => mark.closest("tr"));
  for (const step of steps) { step.classList.add("step"); step.hidden = true; }
  last.after(...steps);
  button.hidden = false;
  button.addEventListener("click", () => {
    const opened = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", opened);
    for (const step of steps) step.hidden = !opened;
  });
}

// Keys: / searches, j and k move in a list, o opens, ? shows them.
const places = () => [...document.querySelectorAll("#result_list tbody tr:not([hidden]), .hit, article.said")];
let chosen = -1;
function choose(step) {
  const found = places();
  if (!found.length) return;
  found[chosen]?.classList.remove("chosen");
  chosen = Math.min(found.length - 1, Math.max(0, chosen + step));
  found[chosen].classList.add("chosen");
  found[chosen].scrollIntoView({ block: "nearest" });
  found[chosen].querySelector("a[href]")?.focus({ preventScroll: true });
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const help = document.getElementById("keys");
  if (event.key === "Escape" && help?.open) return help.close();
  if (event.target.closest("input, textarea, select, [contenteditable], canvas")) return;
  const search = document.querySelector("input[type=search], #searchbar");
  if (event.key === "/") {
    event.preventDefault();
    if (search) search.focus(); else location.href = help.dataset.search;
  } else if (event.key === "j") choose(1);
  else if (event.key === "k") choose(-1);
  else if (event.key === "o") places()[chosen]?.querySelector("th a[href], td a[href], a[href]")?.click();
  else if (event.key === "?") help?.showModal();
});

// What scrolls sideways can be scrolled by keyboard, too.
const scrollable = () => {
  for (const box of document.querySelectorAll(".scroll, .results, .text pre, .text table, .clamp > .text")) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
  }
};
scrollable();
document.addEventListener("arrived", scrollable);

// Slow parts load after their page: the link leads to the complete page, which this script fetches at once to replace
// the elements marked with data-later.
const later = document.querySelector("#later > a");
if (later) {
  const place = later.parentElement;
  place.classList.add("busy");
  fetch(later.href, { redirect: "error" }).then(async (answer) => {
    if (!answer.ok) throw new Error(answer.statusText);
    const whole = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-later]")) {
      part.replaceWith(document.adoptNode(whole.getElementById(part.id)));
    }
    document.getElementById("said").textContent = place.dataset.done;
    document.dispatchEvent(new Event("arrived"));
  }).catch(() => {
    place.classList.remove("busy");
    later.textContent = "That did not work. Try again";
  });
}

// A confirmation is sent once; a large one may take seconds.
document.addEventListener("submit", (event) => {
  const button = event.target.querySelector("button[data-doing]");
  if (!button) return;
  const label = button.textContent;
  button.textContent = button.dataset.doing;
  button.disabled = true;
  addEventListener("pagehide", () => { button.textContent = label; button.disabled = false; }, { once: true });
});

// Ticked messages of a conversation can be forgotten together.
const picks = document.getElementById("picks");
if (picks) {
  const count = () => {
    const ticked = document.querySelectorAll("input[name=message]:checked").length;
    picks.hidden = ticked === 0;
    picks.querySelector("output").textContent = ticked === 1 ? "1 message" : `${ticked} messages`;
  };
  document.addEventListener("change", (event) => { if (event.target.name === "message") count(); });
  count();
}
