const { images, colors, opacity, mapNames } = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const confidence = ({ answers, of_tasks }) => (answers.length && !of_tasks ? answers[0][1] : null);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const valueOf = ({ of_tasks }, [, value, number]) => (number !== null ? `${number} (${percent(value)})` : of_tasks ? value.toPrecision(3) : percent(value));
const MOST_CLASSES = 20; // of the confusion matrix; of more classes, the commonest mistakes are listed
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) drawMap(target);
}, { rootMargin: "400px" });

function drawMap(canvas) {
  seen.unobserve(canvas);
  const { maps, size: [count, rows, columns] } = images[canvas.dataset.index];
  const task = Math.min(Number(element("task").value || 0), count - 1);
  const bytes = Uint8Array.from(atob(maps), (character) => character.charCodeAt(0));
  const map = Float32Array.from(bytes.subarray(task * rows * columns, (task + 1) * rows * columns), (byte) => byte / 255);
  const { naturalWidth: width, naturalHeight: height } = canvas.previousElementSibling;
  const picture = heatmap(map, { rows, columns, width, height }, colors);
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function text(tag, content, className = "") {
  const made = document.createElement(tag);
  made.textContent = content;
  made.className = className;
  return made;
}

function figureOf(image, index) {
  const figure = document.createElement("figure");
  figure.classList.toggle("mistake", image.correct === false);
  const caption = document.createElement("figcaption");
  caption.append(text("strong", image.image));
  if (image.error !== null) caption.append(text("span", image.error, "verdict"));
  if (image.thumbnail) {
    const picture = text("div", "", "picture");
    const view = new Image();
    view.alt = image.image;
    view.loading = "lazy";
    const canvas = document.createElement("canvas");
    canvas.dataset.index = index;
    view.onload = () => seen.observe(canvas);
    view.src = `data:image/jpeg;base64,${image.thumbnail}`;
    picture.append(view, canvas);
    figure.append(picture);
    if (image.label !== null) caption.append(text("span", `is ${image.label}${image.correct ? "" : ", mistake"}`, image.correct ? "" : "verdict"));
    const answers = document.createElement("ol");
    for (const answer of image.answers) {
      const row = document.createElement("li");
      row.append(text("span", answer[0]), text("span", valueOf(image, answer)));
      answers.append(row);
    }
    caption.append(answers);
  }
  figure.append(caption);
  return figure;
}

const figures = images.map(figureOf);
const kinds = {
  all: () => true,
  mistakes: ({ correct }) => correct === false,
  correct: ({ correct }) => correct === true,
  errors: ({ error }) => error !== null,
};
const keys = { // images are sorted by increasing key, those without an answer come last
  name: () => 0,
  least: (image) => confidence(image) ?? Infinity,
  most: (image) => -(confidence(image) ?? -Infinity),
};
const sorted = (chosen, order) => {
  const key = (index) => keys[order](images[index]);
  return chosen.sort((one, other) => (key(one) === key(other) ? one - other : key(one) < key(other) ? -1 : 1));
};

function show() {
  const [which, label, prediction, order, search] = ["which", "label", "prediction", "order", "search"].map((id) => element(id).value);
  const chosen = [...images.keys()].filter((index) => {
    const image = images[index];
    return kinds[which](image)
      && (label === "" || image.label === label)
      && (prediction === "" || image.prediction === prediction)
      && image.image.toLowerCase().includes(search.toLowerCase());
  });
  element("images").replaceChildren(...sorted(chosen, order).map((index) => figures[index]));
  element("count").textContent = `${chosen.length} of ${images.length} images`;
  document.body.classList.toggle("plain", !element("maps").checked);
}

function namesIn(values) {
  return [...new Set(values.filter((value) => value !== null))].sort();
}

function matrix() {
  const known = images.filter(({ correct }) => correct !== null);
  if (!known.length) return;
  element("confusion").hidden = false;
  const counts = new Map();
  for (const image of known) {
    const key = JSON.stringify([image.label, image.prediction]);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const names = namesIn(known.flatMap((image) => [image.label, image.prediction]));
  const few = names.length <= MOST_CLASSES;
  if (!few) element("matrix-title").textContent = "Commonest mistakes";
  element("matrix").append(few ? square(names, counts) : list(counts));
}

function pickButton(count, label, prediction) {
  const button = text("button", count);
  button.type = "button";
  button.title = `Show images of ${label} predicted as ${prediction}`;
  button.onclick = () => {
    element("which").value = "all";
    element("search").value = "";
    element("label").value = label;
    element("prediction").value = prediction;
    show();
  };
  return button;
}

function square(names, counts) {
  const table = document.createElement("table");
  table.append(text("caption", "rows: label, columns: prediction"));
  const head = table.insertRow();
  head.append(text("th", ""), ...names.map((name) => Object.assign(text("th", name), { scope: "col" })));
  for (const label of names) {
    const row = table.insertRow();
    row.append(Object.assign(text("th", label), { scope: "row" }));
    for (const prediction of names) {
      const cell = row.insertCell();
      const count = counts.get(JSON.stringify([label, prediction]));
      if (count) cell.append(pickButton(count, label, prediction));
      cell.classList.toggle("right", label === prediction);
    }
  }
  return table;
}

function list(counts) {
  const table = document.createElement("table");
  const mistakes = [...counts].map(([key, count]) => [...JSON.parse(key), count]).filter(([label, prediction]) => label !== prediction);
  mistakes.sort((one, other) => other[2] - one[2]);
  const head = table.insertRow();
  head.append(...["label", "prediction", "images"].map((name) => text("th", name)));
  for (const [label, prediction, count] of mistakes.slice(0, MOST_CLASSES)) {
    const row = table.insertRow();
    row.append(text("td", label), text("td", prediction), document.createElement("td"));
    row.lastChild.append(pickButton(count, label, prediction));
  }
  return table;
}

for (const name of namesIn(images.map(({ label }) => label))) element("label").append(new Option(name, name));
for (const name of namesIn(images.map(({ prediction }) => prediction))) element("prediction").append(new Option(name, name));
const tasks = images.find(({ of_tasks }) => of_tasks);
if (tasks) element("order").disabled = true;
const names = tasks && tasks.size[0] > 1 ? tasks.answers.map(([name]) => name) : mapNames;
element("task-choice").hidden = !names.length;
names.forEach((name, number) => element("task").append(new Option(name, number)));
document.body.style.setProperty("--opacity", opacity);
const right = images.filter(({ correct }) => correct === true).length;
const judged = images.filter(({ correct }) => correct !== null).length;
element("summary").textContent = `${images.length} images${judged ? `; ${right} of ${judged} right: ${(100 * right / judged).toFixed(1)} %` : ""}`;
element("controls").addEventListener("input", show);
element("controls").addEventListener("submit", (event) => event.preventDefault());
element("task").addEventListener("input", () => {
  for (const figure of figures) figure.querySelectorAll("canvas").forEach((canvas) => seen.observe(canvas));
});
matrix();
show();
