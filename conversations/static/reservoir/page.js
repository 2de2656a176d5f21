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
      // Not over plain http to another machine: select it, so that the keyboard can copy.
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
