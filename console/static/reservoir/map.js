// Draws the memory map on a canvas: dots by topic or by time, lines for the chosen topic. Its data come with the page, or after it.
"use strict";

const HUES = 12;
const MARGIN = 36;
const ANCHORS = 24; // dots of a topic beside which its label may stand
const GLYPHS = ["●", "■", "▲", "◆"]; // by topic.shape

function outline(pen, shape, x, y, r) {
  pen.beginPath();
  if (shape === 1) pen.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
  else if (shape === 2) { pen.moveTo(x, y - r * 1.25); pen.lineTo(x + r * 1.15, y + r * 0.85); pen.lineTo(x - r * 1.15, y + r * 0.85); }
  else if (shape === 3) { pen.moveTo(x, y - r * 1.3); pen.lineTo(x + r * 1.3, y); pen.lineTo(x, y + r * 1.3); pen.lineTo(x - r * 1.3, y); }
  else pen.arc(x, y, r, 0, 7);
  pen.closePath();
}

function drawMap() {
  const get = (id) => document.getElementById(id);
  const data = JSON.parse(get("map-data").textContent);
  const canvas = get("map"), tip = get("map-tip"), reset = get("map-reset"), list = get("map-topics");
  const until = get("map-until"), pen = canvas.getContext("2d");
  const count = data.id.length;
  const first = [], size = []; // of each topic
  data.topic.forEach((topic, i) => { first[topic] ??= i; size[topic] = i - first[topic] + 1; });
  const named = data.topics.map((_, i) => i).filter((i) => data.topics[i].label)
    .sort((a, b) => data.topics[a].number - data.topics[b].number);
  // Dots of small topics lie below the coloured ones.
  const order = data.topic.map((_, i) => i).sort((a, b) => Boolean(data.topics[data.topic[a]].label) - Boolean(data.topics[data.topic[b]].label));
  let zoom = 1, left = 0, top = 0, radius = 4, box = { width: 0, height: 0 }, at = [], labels = [];
  let under = -1, pinned = -1, glanced = -1, due = false, seen = count;
  const active = () => glanced >= 0 ? glanced : under >= 0 ? data.topic[under] : pinned;
  const byTime = () => get("map-by-time").checked;
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  };

  // --- drawing ---
  function colour(i, strength) {
    const topic = data.topics[data.topic[i]], night = dark();
    if (byTime()) {
      const age = count > 1 ? i / (count - 1) : 1; // the ramp of .map-ramp
      return `hsl(${260 - 230 * age} 70% ${night ? 66 : 48 - 6 * age}% / ${strength})`;
    }
    if (!topic.label && data.topic[i] !== active()) return `hsl(215 12% ${night ? 58 : 62}% / ${strength * 0.7})`;
    return `hsl(${topic.hue * (360 / HUES) + 10} ${night ? 62 : 66}% ${night ? 66 : 48}% / ${strength})`;
  }

  function dot(i, strength, r) {
    const topic = data.topics[data.topic[i]], shape = byTime() || !topic.label ? 0 : topic.shape;
    outline(pen, shape, ...at[i], r);
    pen.fillStyle = colour(i, strength);
    pen.fill();
  }

  function line(topic) {
    pen.lineWidth = 1.8;
    for (let i = first[topic] + 1; i < first[topic] + size[topic]; i++) {
      pen.strokeStyle = colour(i, i < seen ? 0.8 : 0.15);
      pen.beginPath();
      pen.moveTo(...at[i - 1]);
      pen.lineTo(...at[i]);
      pen.stroke();
    }
  }

  function draw() {
    due = false;
    const sharp = devicePixelRatio || 1, topic = active(), mine = (i) => data.topic[i] === topic;
    if (canvas.width !== Math.round(box.width * sharp) || canvas.height !== Math.round(box.height * sharp)) {
      canvas.width = Math.round(box.width * sharp);
      canvas.height = Math.round(box.height * sharp);
    }
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    const others = topic < 0 ? 0.85 : 0.22;
    for (const i of order) if (!mine(i)) dot(i, i < seen ? others : 0.07, radius);
    if (topic >= 0) {
      line(topic);
      for (let i = first[topic]; i < first[topic] + size[topic]; i++) dot(i, i < seen ? 1 : 0.15, radius + 1);
    }
    if (under >= 0) {
      dot(under, 1, radius + 3);
      pen.strokeStyle = dark() ? "#e4e9f1" : "#1a2332";
      pen.lineWidth = 2;
      pen.stroke();
    }
    write(topic);
    reset.hidden = zoom === 1 && left === 0 && top === 0 && pinned < 0;
  }

  function write(topic) {
    const ink = dark() ? "#e4e9f1" : "#1a2332", quiet = dark() ? "#93a1b5" : "#5d6b80";
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    const strength = (label) => topic < 0 || label.topic === topic ? 1 : 0.35;
    // Thin lines from the labels' nearest edges to the dots that they name; then the texts, which the lines never cross.
    pen.strokeStyle = quiet;
    pen.lineWidth = 0.8;
    for (const { label, box: [a, b, c, d], dot: to } of labels) {
      const x = Math.max(a, Math.min(c, to[0])), y = Math.max(b, Math.min(d, to[1]));
      if (Math.hypot(x - to[0], y - to[1]) <= radius + 11) continue;
      pen.globalAlpha = strength(label);
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(...to);
      pen.stroke();
    }
    pen.strokeStyle = dark() ? "#161c25" : "#fff"; // the card's colour
    pen.lineWidth = 4;
    pen.fillStyle = ink;
    for (const { label, text, box: [a, b, c, d] } of labels) {
      pen.globalAlpha = 1;
      pen.strokeText(text, (a + c) / 2, (b + d) / 2);
      pen.globalAlpha = strength(label);
      pen.fillText(text, (a + c) / 2, (b + d) / 2);
    }
    pen.globalAlpha = 1;
  }

  const redraw = () => { if (!due) { due = true; requestAnimationFrame(draw); } };

  // --- places ---
  // Some dots of a topic that are in the picture, the nearest to the middle of all its dots first.
  function anchors(topic) {
    const members = at.slice(first[topic], first[topic] + size[topic]);
    const x = members.reduce((sum, spot) => sum + spot[0], 0) / members.length;
    const y = members.reduce((sum, spot) => sum + spot[1], 0) / members.length;
    const far = (spot) => Math.hypot(spot[0] - x, spot[1] - y);
    return members.filter(([a, b]) => a > 0 && b > 0 && a < box.width && b < box.height)
      .sort((one, other) => far(one) - far(other)).slice(0, ANCHORS);
  }

  function layOut() {
    const bounds = canvas.getBoundingClientRect();
    box = { width: bounds.width, height: bounds.height };
    radius = Math.max(2.2, Math.min(7, 0.16 * Math.sqrt(box.width * box.height / count))) * Math.min(2, Math.sqrt(zoom));
    at = data.x.map((x, i) => [
      MARGIN + x * (box.width - 2 * MARGIN) * zoom + left,
      MARGIN + (1 - data.y[i]) * (box.height - 2 * MARGIN) * zoom + top,
    ]);
    pen.font = "600 12px system-ui, sans-serif";
    const wide = (text) => [text, pen.measureText(text).width + 6];
    const wanted = named.map((topic) => {
      const { number, label } = data.topics[topic];
      return { topic, dots: anchors(topic), forms: [wide(`${number} ${label}`), wide(String(number))] };
    });
    labels = placeLabels(wanted, at, radius * 1.3, box.width, box.height, 18, [[box.width - 200, 0, box.width, 48]]);
    redraw();
  }

  function nearest(x, y) {
    let best = -1, reach = (radius + 7) ** 2;
    for (let i = 0; i < count; i++) {
      const far = (at[i][0] - x) ** 2 + (at[i][1] - y) ** 2;
      if (far < reach) { best = i; reach = far; }
    }
    return best;
  }

  function zoomTo(x, y, factor) {
    const next = Math.min(40, Math.max(1, zoom * factor)), by = next / zoom;
    left = next === 1 ? 0 : x - MARGIN - (x - MARGIN - left) * by;
    top = next === 1 ? 0 : y - MARGIN - (y - MARGIN - top) * by;
    zoom = next;
    canvas.classList.toggle("zoomed", zoom > 1); // a finger then moves the map, not the page
    layOut();
  }

  // --- choosing ---
  function point(i) {
    if (i === under) return;
    under = i;
    canvas.classList.toggle("pointing", i >= 0);
    tip.hidden = i < 0;
    if (i >= 0) {
      const topic = data.topics[data.topic[i]];
      const head = document.createElement("b"), text = document.createElement("bdi"), about = document.createElement("i");
      head.textContent = `${data.who[i]}, ${data.when[i]}`;
      text.textContent = data.text[i];
      about.textContent = `Topic ${topic.number}${topic.label ? `: ${topic.label}` : ""} (${topic.count})`;
      tip.replaceChildren(head, text, about);
      const [x, y] = at[i];
      tip.style.left = `${Math.max(8, Math.min(x + 14, box.width - tip.offsetWidth - 8))}px`;
      tip.style.top = `${y + 24 + tip.offsetHeight > box.height ? Math.max(8, y - tip.offsetHeight - 14) : y + 14}px`;
    }
    redraw();
  }

  function pin(topic) {
    pinned = topic;
    for (const button of list.children) button.ariaPressed = String(Number(button.value) === pinned);
    redraw();
  }

  const open = (i) => { location.href = `${canvas.dataset.url}?at=${data.id[i]}#m${data.id[i]}`; };
  // Brings a dot that was moved out of the picture back into it.
  const show = (i) => {
    const [x, y] = at[i];
    if (x < 0 || y < 0 || x > box.width || y > box.height) { left += box.width / 2 - x; top += box.height / 2 - y; layOut(); }
    point(i);
  };
  const stepMessage = (by) => show(under < 0 ? (by > 0 ? 0 : count - 1) : (under + by + count) % count);
  const stepTopic = (by) => {
    const topics = data.topics.length;
    show(first[under < 0 ? (by > 0 ? 0 : topics - 1) : (data.topic[under] + by + topics) % topics]);
  };
  const clear = () => { zoom = 1; left = top = 0; glanced = -1; canvas.classList.remove("zoomed"); point(-1); pin(-1); layOut(); };

  // --- pointers: one drags, two zoom ---
  const fingers = new Map();
  let drag = null;
  const spot = (event) => { const bounds = canvas.getBoundingClientRect(); return [event.clientX - bounds.left, event.clientY - bounds.top]; };
  const apart = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, spot(event));
    canvas.setPointerCapture(event.pointerId);
    drag = { x: event.clientX, y: event.clientY, left, top, moved: fingers.size > 1, apart: fingers.size === 2 ? apart() : 0 };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return point(nearest(...spot(event)));
    fingers.set(event.pointerId, spot(event));
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()], now = apart();
      zoomTo((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, now / Math.max(1, drag.apart));
      drag.apart = now;
    } else if (drag) {
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (Math.hypot(dx, dy) > 4) drag.moved = true;
      if (drag.moved) { left = drag.left + dx; top = drag.top + dy; layOut(); }
    }
  });
  const lift = (event) => {
    const tapped = event.type === "pointerup" && drag && !drag.moved && fingers.size === 1, before = under;
    fingers.delete(event.pointerId);
    drag = null;
    if (!tapped) return;
    const i = nearest(...spot(event));
    point(i);
    // A finger reads first and opens with the second tap.
    if (i >= 0 && (event.pointerType === "mouse" || i === before)) open(i);
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", (event) => { if (!drag && event.pointerType === "mouse") point(-1); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomTo(...spot(event), event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });

  // --- keys and controls ---
  const keys = {
    ArrowRight: () => stepMessage(1), ArrowLeft: () => stepMessage(-1),
    ArrowDown: () => stepTopic(1), ArrowUp: () => stepTopic(-1),
    Enter: () => { if (under >= 0) open(under); },
    Escape: clear,
    "+": () => zoomTo(box.width / 2, box.height / 2, 1.4), "-": () => zoomTo(box.width / 2, box.height / 2, 1 / 1.4),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  canvas.addEventListener("blur", () => point(-1));
  reset.addEventListener("click", clear);
  get("map-closer").addEventListener("click", keys["+"]);
  get("map-wider").addEventListener("click", keys["-"]);
  for (const choice of document.querySelectorAll("input[name=map-by]")) {
    choice.addEventListener("change", () => { get("map-ramp").hidden = !byTime(); redraw(); });
  }
  const slide = () => {
    seen = Number(until.value);
    const said = seen === count ? "now" : data.when[seen - 1];
    get("map-said").textContent = said;
    until.setAttribute("aria-valuetext", `${said}, ${seen} of ${count}`);
    redraw();
  };
  until.max = count;
  until.value = count;
  until.addEventListener("input", slide);

  for (const topic of named) {
    const button = document.createElement("button"), glyph = document.createElement("span");
    const { hue, shape, number, label, count: messages } = data.topics[topic];
    button.type = "button";
    button.value = topic;
    button.className = `topic-button hue-${hue}`;
    button.ariaPressed = "false";
    glyph.textContent = GLYPHS[shape];
    glyph.ariaHidden = "true";
    button.append(glyph, ` ${number} ${label} (${messages})`);
    const glance = (i) => () => { glanced = i; redraw(); };
    button.addEventListener("click", () => pin(pinned === topic ? -1 : topic));
    button.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") glance(topic)(); });
    button.addEventListener("pointerleave", glance(-1));
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) glance(topic)(); });
    button.addEventListener("blur", glance(-1));
    list.append(button);
  }

  slide();
  new ResizeObserver(layOut).observe(canvas);
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  layOut();
}

if (document.getElementById("map-data")) drawMap();
document.addEventListener("arrived", () => { if (document.getElementById("map-data")) drawMap(); });
