// Draws the memory map: points on a canvas, runs of one topic joined. Everything it shows comes with the page, or after it.
"use strict";

function drawMap() {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const canvas = document.getElementById("map");
  const tip = document.getElementById("map-tip");
  const reset = document.getElementById("map-reset");
  const pen = canvas.getContext("2d");
  const count = data.id.length;
  const radius = Math.max(2.4, Math.min(8, 60 / Math.sqrt(count)));
  const HUES = 12;
  let zoom = 1, left = 0, top = 0, under = -1, lit = -1, drag = null;

  const size = () => canvas.getBoundingClientRect();
  const margin = 36;
  const place = (i) => {
    const box = size();
    return [
      margin + (data.x[i] * (box.width - 2 * margin)) * zoom + left,
      margin + ((1 - data.y[i]) * (box.height - 2 * margin)) * zoom + top,
    ];
  };
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  };
  const colour = (topic, strength) => {
    const hue = data.topics[topic].hue * (360 / HUES) + 10;
    return `hsl(${hue} ${dark() ? 62 : 66}% ${dark() ? 66 : 48}% / ${strength})`;
  };

  function draw() {
    const box = size(), sharp = devicePixelRatio || 1;
    canvas.width = box.width * sharp;
    canvas.height = box.height * sharp;
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    const crowded = count > 800;
    const at = Array.from({ length: count }, (_, i) => place(i));

    for (let i = 1; i < count; i++) {
      if (data.topic[i] !== data.topic[i - 1]) continue;
      const mine = lit === data.topic[i];
      if (lit >= 0 && !mine) continue;
      pen.strokeStyle = colour(data.topic[i], mine ? 0.9 : crowded ? 0.13 : 0.4);
      pen.lineWidth = mine ? 2.2 : crowded ? 0.8 : 1.5;
      pen.beginPath();
      pen.moveTo(...at[i - 1]);
      pen.lineTo(...at[i]);
      pen.stroke();
    }
    for (let i = 0; i < count; i++) {
      const mine = lit < 0 || lit === data.topic[i];
      pen.fillStyle = colour(data.topic[i], mine ? (crowded && lit < 0 ? 0.72 : 0.95) : 0.12);
      pen.beginPath();
      pen.arc(...at[i], i === under ? radius + 3 : radius, 0, 7);
      pen.fill();
      if (i === under || (!crowded && mine)) {
        pen.strokeStyle = dark() ? "#161c25" : "#fff";
        pen.lineWidth = 1.5;
        pen.stroke();
      }
    }
    names(at, box);
    reset.hidden = zoom === 1 && left === 0 && top === 0 && lit < 0;
  }

  // The largest topics by name, where they lie, as long as the names do not cover each other.
  function names(at, box) {
    const taken = [];
    const largest = data.topics.map((topic, i) => [topic.count, i]).filter(([, i]) => data.topics[i].label);
    largest.sort((a, b) => b[0] - a[0]);
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    for (const [, topic] of lit >= 0 ? [[0, lit]] : largest.slice(0, 14)) {
      const members = at.filter((_, i) => data.topic[i] === topic);
      if (!members.length || !data.topics[topic].label) continue;
      const x = members.reduce((sum, point) => sum + point[0], 0) / members.length;
      const y = Math.min(...members.map((point) => Math.abs(point[0] - x) < 40 ? point[1] : Infinity), members[0][1]) - radius - 8;
      const label = data.topics[topic].label, half = pen.measureText(label).width / 2 + 6;
      const spot = [Math.min(Math.max(x, half + 4), box.width - half - 4), Math.max(y, 16)];
      if (taken.some(([a, b, c]) => Math.abs(a - spot[0]) < c + half && Math.abs(b - spot[1]) < 20)) continue;
      taken.push([...spot, half]);
      pen.lineWidth = 4;
      pen.lineJoin = "round";
      pen.strokeStyle = dark() ? "#161c25" : "#fff";
      pen.strokeText(label, ...spot);
      pen.fillStyle = dark() ? "#e4e9f1" : "#1a2332";
      pen.fillText(label, ...spot);
    }
  }

  function nearest(x, y) {
    let best = -1, reach = (radius + 7) ** 2;
    for (let i = 0; i < count; i++) {
      const [a, b] = place(i), far = (a - x) ** 2 + (b - y) ** 2;
      if (far < reach) { best = i; reach = far; }
    }
    return best;
  }

  function point(i) {
    if (i === under) return;
    under = i;
    canvas.classList.toggle("pointing", i >= 0);
    tip.hidden = i < 0;
    if (i >= 0) {
      tip.replaceChildren();
      const head = document.createElement("b"), text = document.createElement("bdi");
      head.textContent = `${data.who[i]}, ${data.when[i]}`;
      text.textContent = data.text[i];
      tip.append(head, text);
      const [x, y] = place(i), box = size();
      tip.style.left = `${Math.max(8, Math.min(x + 14, box.width - 316))}px`;
      tip.style.top = `${y > box.height - 120 ? Math.max(8, y - 110) : y + 14}px`;
    }
    draw();
  }

  const open = (i) => { location.href = `${canvas.dataset.url}?at=${data.id[i]}#m${data.id[i]}`; };
  const at = (event) => { const box = size(); return [event.clientX - box.left, event.clientY - box.top]; };
  const zoomTo = (x, y, factor) => {
    const next = Math.min(40, Math.max(1, zoom * factor)), by = next / zoom;
    left = next === 1 ? 0 : x - margin - (x - margin - left) * by;
    top = next === 1 ? 0 : y - margin - (y - margin - top) * by;
    zoom = next;
    draw();
  };

  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, left, top, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (Math.hypot(dx, dy) > 4) drag.moved = true;
      if (drag.moved) { left = drag.left + dx; top = drag.top + dy; draw(); }
      return;
    }
    point(nearest(...at(event)));
  });
  canvas.addEventListener("pointerup", (event) => {
    const moved = drag?.moved, before = under;
    drag = null;
    if (moved) return;
    const i = nearest(...at(event));
    point(i);
    // A finger reads first and opens with the second tap.
    if (i >= 0 && (event.pointerType === "mouse" || i === before)) open(i);
  });
  canvas.addEventListener("pointerleave", (event) => { if (!drag && event.pointerType === "mouse") point(-1); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomTo(...at(event), event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { point(under < 0 ? (step > 0 ? 0 : count - 1) : (under + step + count) % count); event.preventDefault(); }
    if (event.key === "Enter" && under >= 0) open(under);
    if (event.key === "Escape") reset.click();
  });
  reset.addEventListener("click", () => { zoom = 1; left = top = 0; lit = -1; mark(); draw(); });

  const list = document.getElementById("map-topics");
  const mark = () => { for (const button of list.children) button.ariaPressed = String(Number(button.value) === lit); };
  data.topics.map((topic, i) => [topic, i]).filter(([topic]) => topic.label)
    .sort((a, b) => b[0].count - a[0].count).slice(0, 24).forEach(([topic, i]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.value = i;
      button.className = `topic-button hue-${topic.hue}`;
      button.textContent = `${topic.label} (${topic.count})`;
      button.addEventListener("click", () => { lit = lit === i ? -1 : i; mark(); draw(); });
      list.append(button);
    });

  new ResizeObserver(draw).observe(canvas);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  draw();
}

if (document.getElementById("map-data")) drawMap();
document.addEventListener("arrived", () => { if (document.getElementById("map-data")) drawMap(); });
