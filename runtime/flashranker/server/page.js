"use strict";

const form = document.getElementById("form");
const query = document.getElementById("query");
const passages = document.getElementById("passages");
const key = document.getElementById("key");
const button = document.getElementById("rank");
const statusLine = document.getElementById("status");
const results = document.getElementById("results");
let models = [];

function say(text, failed = false) {
  statusLine.textContent = text;
  statusLine.classList.toggle("error", failed);
}

function count(things, name) {
  return `${things.length} ${name}${things.length === 1 ? "" : "s"}`;
}

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (key.value) headers.Authorization = `Bearer ${key.value}`;
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  if (response.status === 401) {
    document.getElementById("key-row").hidden = false;
    key.focus();
  }
  if (!response.ok) throw new Error(answer.message);
  return { answer, timing: response.headers.get("Server-Timing") ?? "" };
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function moved(places) {
  if (places === 0) return make("span", "move", "stays");
  const up = places > 0;
  const mark = make("span", `move ${up ? "up" : "down"}`, `${up ? "▲" : "▼"} ${Math.abs(places)}`);
  mark.setAttribute("aria-label", `${up ? "up" : "down"} ${Math.abs(places)}`);
  return mark;
}

// Each passage starts where it stood before and glides to its place.
function glide(list, before) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const item of list.children) {
    const from = before.get(item.dataset.index);
    if (from === undefined) continue;
    const way = from - item.offsetTop;
    if (way) item.animate([{ transform: `translateY(${way}px)` }, { transform: "none" }], { duration: 350, easing: "ease-out" });
  }
}

function card(name) {
  const found = [...results.children].find((one) => one.dataset.name === name);
  if (found) return found;
  const made = make("article", "model");
  made.dataset.name = name;
  made.append(make("h2", "", name), make("p", "times"), document.createElement("ol"));
  results.append(made);
  return made;
}

function show(name, texts, answer, timing, milliseconds) {
  const place = card(name);
  const list = place.querySelector("ol");
  const before = new Map([...list.children].map((item) => [item.dataset.index, item.offsetTop]));
  const rank = /rank;dur=([\d.]+)/.exec(timing);
  place.querySelector(".times").textContent =
    `${rank ? rank[1] : "?"} ms to rank ${count(texts, "passage")}, ${milliseconds.toFixed(1)} ms with the way there and back`;
  list.replaceChildren(...answer.results.map((result, position) => {
    const item = document.createElement("li");
    item.dataset.index = result.index;
    const left = make("div", "");
    left.append(make("div", "score", result.relevance_score.toFixed(3)), moved(result.index - position));
    const bar = document.createElement("meter");
    bar.value = result.relevance_score;
    bar.setAttribute("aria-hidden", "true");
    item.append(left, make("div", "text", texts[result.index]), bar);
    return item;
  }));
  glide(list, before);
}

async function loadModels() {
  const { answer } = await ask("info");
  models = answer.models.map((model) => model.name);
}

async function rank() {
  const texts = passages.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!texts.length) return say("There are no passages: paste some, a line each.", true);
  button.disabled = true;
  say("Ranking…");
  try {
    if (!models.length) await loadModels();
    // One after another: two models at once would share the cores, and each look slower than it is.
    for (const model of models) {
      const began = performance.now();
      const { answer, timing } = await ask("rerank", { model, query: query.value, documents: texts });
      show(model, texts, answer, timing, performance.now() - began);
    }
    say(`${count(texts, "passage")}, ${count(models, "model")}.`);
  } catch (error) {
    say(error instanceof TypeError ? "The server can't be reached." : error.message, true);
  } finally {
    button.disabled = false;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  rank();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit();
  }
});
loadModels().then(() => say(`Ready: ${models.join(", ")}.`), (error) => say(error.message, true));
