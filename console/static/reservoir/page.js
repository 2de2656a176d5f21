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

// On a phone the page one is on may lie beyond the edge.
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

// What takes a while to work out comes after its page: here is a link to the whole page, which is followed at once, and
// what is marked here is taken over from there.
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

// What is confirmed once is not sent twice, and takes a while for much.
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
