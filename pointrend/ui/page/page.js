"use strict";
const at = (id) => document.getElementById(id);
const state = { offered: [], weights: 0, picture: null, found: null, object: 0, classes: [], place: null, resolution: 0, points: 0 };

// Runs one request at a time; of those asked for meanwhile only the newest follows.
class Newest {
  constructor(work) { this.work = work; this.running = false; this.next = false; }
  async ask() {
    if (this.running) { this.next = true; return; }
    this.running = true;
    try { do { this.next = false; await this.work(); } while (this.next); } finally { this.running = false; }
  }
}

let pending = 0;
async function request(path, options) {
  pending += 1;
  document.body.classList.add("busy");
  try {
    const response = await fetch(path, options).catch(() => { throw new Error("The server does not answer. Was it ended?"); });
    const answer = await response.json().catch(() => ({ error: `The server answered with status ${response.status}.` }));
    if (!response.ok) throw new Error(answer.error);
    return answer;
  } finally {
    pending -= 1;
    document.body.classList.toggle("busy", pending > 0);
  }
}

function say(message) { at("message").textContent = message; at("message").hidden = !message; }
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const weights = () => state.offered[state.weights];
const isInstance = () => weights().task === "instance";
const settings = () => ({
  weights: state.weights, picture: state.picture, resolution: state.resolution, points: state.points, score: at("score").value,
});
const query = (values) => new URLSearchParams(values).toString();
const seconds = (value) => (value < 1 ? `${(value * 1000).toPrecision(value < 0.01 ? 2 : 3)} ms` : `${value.toFixed(1)} s`);

// --- weights and sliders

function listWeights(offered, start) {
  state.offered = offered;
  const groups = {};
  offered.forEach((known, index) => {
    const kind = known.task === "instance" ? "Objects" : "Every pixel";
    const group = `${kind}, ${known.pointrend ? "with PointRend" : "without PointRend"}`;
    groups[group] ??= element("optgroup", { label: group });
    const [metric, value] = Object.entries(known.scores)[0] ?? [];
    const name = metric ? `${known.name} (${metric} ${value.toFixed(1)})` : known.name;
    groups[group].append(element("option", { value: index, textContent: name }));
  });
  const order = Object.keys(groups).sort((a, b) => a.length - b.length).sort((a, b) => b.startsWith("Objects") - a.startsWith("Objects"));
  at("weights").append(...order.map((name) => groups[name]));
  at("weights").value = start;
  choose(start);
}

function choose(index) {
  state.weights = Number(index);
  const known = weights();
  state.resolution = known.resolution;
  state.points = known.num_points;
  slider("resolution", known.resolutions, known.resolution, (value) => `${value} × ${value}`);
  slider("points", known.points, known.num_points, (value) => value.toLocaleString("en"));
  at("score-label").hidden = !isInstance();
  if (!state.scoreChosen) {  // until that slider is moved it is where F1 is best for the weights
    at("score").value = known.least_score;
    showScore();
  }
  at("resolution-label").hidden = !isInstance();
  at("note").textContent = known.note ?? "";
  at("note").hidden = !known.note;
  const shown = Array.from({ length: known.examples }, (_, number) => {
    const path = `/api/examples/${state.weights}/${number}`;
    const button = element("button", { type: "button", title: "Open this drawn picture" }, element("img", { src: path, alt: `Drawn picture ${number + 1}` }));
    button.addEventListener("click", () => openExample(path, `drawn picture ${number + 1}`));
    return button;
  });
  at("examples").replaceChildren(at("examples").firstElementChild, ...shown);
  at("examples").hidden = !shown.length;
}

function showScore() { at("score-value").textContent = Number(at("score").value).toFixed(2); }

function slider(name, choices, value, format) {
  const input = at(name);
  input.disabled = !choices.length;
  at(`${name}-label`).classList.toggle("off", !choices.length);
  input.max = Math.max(0, choices.length - 1);
  input.value = Math.max(0, choices.indexOf(value));
  at(`${name}-value`).textContent = value ? format(value) : "none";
  input.oninput = () => {
    state[name] = choices[input.value];
    at(`${name}-value`).textContent = format(state[name]);
    show();
  };
}

// --- pictures

const openings = new Newest(async () => {
  const { blob, name } = state.file;
  say("");
  try {
    const opened = await request(`/api/pictures?${query({ name, weights: state.weights })}`, { method: "POST", body: blob });
    state.picture = opened.picture;
    state.remarks = opened.remarks;
    await look();
  } catch (error) { failed(error); }
});
async function openExample(path, name) {
  const before = state.file;
  const response = await fetch(path).catch(() => null);
  const blob = response?.ok ? await response.blob() : null;
  if (state.file !== before) return;  // another picture was chosen meanwhile
  if (blob) open(blob, name); else say("This picture is not there any more.");
}
function open(blob, name) { state.file = { blob, name }; return openings.ask(); }

function failed(error) {
  say(error.message);
  state.picture = null;
  at("result").hidden = true;
  at("drop").classList.add("empty");
}

async function look() {
  const { weights: asked, picture } = state;
  const found = await request(`/api/found?${query({ weights: asked, picture })}`);
  if (asked !== state.weights || picture !== state.picture) return;
  state.found = found;
  const remarks = [...(state.remarks ?? []).map((remark) => `read ${remark}`), ...(found.remark ? [found.remark] : [])];
  at("remark").textContent = remarks.join("; ");
  at("remark").hidden = !remarks.length;
  state.place = null;
  state.object = telling();
  at("drop").classList.remove("empty");
  at("result").hidden = false;
  at("whole-title").textContent = isInstance() ? "The whole picture: click on an object" : "The whole picture: click on a place";
  at("closer-title").textContent = isInstance() ? "One object, from coarse to fine" : "One place, from coarse to fine";
  list();
  await Promise.all([details.ask(), overlay.ask()]);
}

const shownObjects = () => state.found.objects.map((object, index) => ({ ...object, index })).filter((object) => object.score >= at("score").value);
const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
// The largest object of those whose score is near the best shows most.
function telling() {
  if (!isInstance()) return 0;
  const shown = shownObjects(), best = Math.max(...shown.map((object) => object.score));
  return shown.filter((object) => object.score > best - 0.1).sort((a, b) => area(b) - area(a))[0]?.index ?? -1;
}

// --- what was found

function list() {
  const swatch = (color) => Object.assign(element("i"), { style: `background:${color}` });
  const entries = isInstance()
    ? shownObjects().map((object) => {
        const button = element("button", { type: "button" }, swatch(object.color), `${object.name} ${object.score.toFixed(2)}`);
        button.setAttribute("aria-pressed", object.index === state.object);
        button.addEventListener("click", () => select(object.index));
        return button;
      })
    : state.classes.map((known) => element("span", { className: "entry" }, swatch(known.color), `${known.name} ${(known.share * 100).toFixed(1)}%`));
  at("list").replaceChildren(...entries.map((entry) => element("li", {}, entry)));
}

function select(index) { state.object = index; list(); details.ask(); }

function figure({ title, text, image }) {
  return element("figure", {}, element("img", { src: image, alt: `${title}: ${text}` }), element("figcaption", {}, element("b", { textContent: title }), text));
}

const details = new Newest(async () => {
  if (!state.picture) return;
  const nothing = isInstance() && state.object < 0;
  at("panels").hidden = nothing;
  at("steps-section").hidden = nothing;
  at("mark").hidden = nothing;
  if (nothing) {
    at("summary").textContent = state.found.objects.length
      ? `No object has a score of ${Number(at("score").value).toFixed(2)} or more. Move that slider to the left.`
      : "Nothing was found in this picture. Weights find the kind of objects that they were trained on.";
    return;
  }
  const which = isInstance() ? { object: state.object } : state.place ? { x: state.place[0], y: state.place[1] } : {};
  const { picture, weights: asked } = state;
  try {
    const answer = await request(`/api/details?${query({ ...settings(), ...which })}`);
    if (picture !== state.picture || asked !== state.weights) return;
    at("panels").replaceChildren(...answer.panels.map(figure));
    at("panels").classList.toggle("two", answer.panels.length === 2);
    at("steps").replaceChildren(...answer.steps.map(figure));
    at("steps").style.setProperty("--count", answer.steps.length);
    at("steps-section").hidden = !answer.steps.length;
    at("summary").textContent = answer.summary;
    state.window = isInstance() ? state.found.objects[state.object].box : answer.window;
    mark();
    say("");
  } catch (error) { say(error.message); }
});

const overlay = new Newest(async () => {
  if (!state.picture) return;
  const { picture, weights: asked } = state;
  try {
    const answer = await request(`/api/overlay?${query(settings())}`);
    if (picture !== state.picture || asked !== state.weights) return;
    at("overlay").src = answer.image;
    if (!isInstance()) { state.classes = answer.classes; list(); }
    const rows = [[isInstance() ? "detector: backbone and boxes" : "network, coarse prediction", state.found.seconds], [answer.masks, answer.seconds]];
    at("timings").replaceChildren(...rows.map(([what, value]) => element("tr", {}, element("td", { textContent: what }), element("td", { textContent: seconds(value) }))));
  } catch (error) { say(error.message); }
});

function mark() {
  const [x0, y0, x1, y1] = state.window;
  Object.assign(at("mark").style, {
    left: `${x0 * 100}%`, width: `${(x1 - x0) * 100}%`, top: `${y0 * 100}%`, height: `${(y1 - y0) * 100}%`,
  });
}

function show() { details.ask(); overlay.ask(); }

// --- events

at("weights").addEventListener("change", async () => {
  choose(at("weights").value);
  say("");
  if (!state.picture) return;
  try { await look(); } catch (error) { failed(error); }
});
at("score").addEventListener("input", () => {
  state.scoreChosen = true;
  showScore();
  if (!state.found) return; // what is still awaited is shown with the new score
  if (!shownObjects().some((object) => object.index === state.object)) state.object = telling();
  list();
  show();
});
at("picture").addEventListener("click", (event) => {
  if (!state.found) return;
  const area_ = at("overlay").getBoundingClientRect();
  const x = (event.clientX - area_.left) / area_.width, y = (event.clientY - area_.top) / area_.height;
  if (!isInstance()) { state.place = [x, y]; details.ask(); return; }
  const hit = shownObjects().filter(({ box }) => box[0] <= x && x <= box[2] && box[1] <= y && y <= box[3]);
  if (hit.length) select(hit.sort((a, b) => area(a) - area(b))[0].index);
});
at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  if (file) open(file, file.name);
  at("file").value = "";
});
for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => { event.preventDefault(); at("drop").classList.add("over"); });
}
addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) open(file, file.name);
});

at("drop").classList.add("empty");
showScore();
request("/api/weights").then(({ weights: offered, start }) => {
  listWeights(offered, start);
  at("examples").querySelector("button")?.click();  // so that there is something to see at once
}).catch((error) => say(error.message));
