// Asks an exchange's question again, with and without memory, side by side. Nothing is stored.
import { ask } from "./asking.js";

const section = document.getElementById("again");
section?.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = section.querySelector("button");
  const key = section.querySelector("input").value;
  const body = JSON.parse(document.getElementById("again-body").textContent);
  section.querySelector(".split").hidden = false;
  button.disabled = true;
  await Promise.all([...section.querySelectorAll("[data-recall]")].map(async (place) => {
    place.classList.remove("failed");
    place.textContent = "…";
    const headers = { ...JSON.parse(section.dataset.headers), "X-Reservoir-Store": "off", "X-Reservoir-Recall": place.dataset.recall };
    const keyHeader = section.dataset.keyHeader;
    try {
      await ask(section.dataset.url, body, { key, keyHeader, headers, told: (text) => { place.textContent = text; } });
    } catch (error) {
      place.classList.add("failed");
      place.textContent = error.message;
    }
  }));
  button.disabled = false;
});
