// What the user does and sees. Names of classes and files come from others: they are text, never HTML.

const byId = id => document.getElementById(id);
const [choose, camera, files, viewfinder, take, output, score] =
  ["choose", "camera", "files", "viewfinder", "take", "output", "score"].map(byId);
const video = viewfinder.querySelector("video"), ownThresholds = byId("own").querySelector("input");
const pictures = [];
let settings, categories, worker, leastScore, queue = Promise.resolve(), round = 0, shots = 0;

const say = text => (byId("status").textContent = text);
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// While the network loads too: a browser else leaves the page for the picture.
for (const name of ["dragover", "drop"]) addEventListener(name, event => event.preventDefault());

try {
  settings = await (await fetch("model.json", { cache: "no-cache" })).json();
  categories = new Map(settings.categories.map(category => [category.id, category]));
  say(`Loading the network, ${(settings.bytes / 1e6).toFixed(1)} MB`);
  describe();
  worker = startWorker();
  const { version } = await ask({ files: settings.files });
  byId("source").append(` onnxruntime-web ${version}.`);
  acceptPictures();
  say("Ready.");
} catch (error) {
  say(`The detector does not start: ${error.message}.`);
}

/** Made from a blob, the worker is under the page's content security policy; made from a file it would have none. */
function startWorker() {
  for (const file of Object.values(settings.files)) file.url = new URL(file.url, document.baseURI).href;
  const source = `import ${JSON.stringify(new URL("detector.js", document.baseURI).href)};`;
  return new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })), { type: "module" });
}

/** The worker's answer to a message; one message at a time. */
function ask(message) {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data));
    worker.onerror = event => reject(new Error(event.message || "its worker is not loaded"));
    worker.postMessage(message);
  });
}

function describe() {
  byId("classes").querySelector("summary").textContent = `Finds ${plural(categories.size, "kind")} of objects`;
  byId("classes").querySelector("ul").append(...settings.categories.map(category => counted(category)));
  const server = settings.cdn
    ? `The runtime comes from ${settings.cdn}, everything else from this page's server.`
    : "All files come from this page's server; the page forbids itself every other one.";
  byId("source").textContent =
    `${settings.preset}, ${settings.precision}, SHA-256 ${settings.sha256.slice(0, 12)}. ${server}`;
  score.min = settings.least_score;
  score.value = leastScore = settings.threshold;
  const own = settings.categories.some(category => category.threshold !== null);
  byId("own").hidden = !own;
  ownThresholds.checked = own;
  showThreshold();
}

function acceptPictures() {
  choose.disabled = false;
  choose.onclick = () => files.click();
  files.onchange = () => {
    add(files.files);
    files.value = ""; // so that the same file can be chosen again
  };
  addEventListener("paste", event => add(event.clipboardData.files));
  addEventListener("dragover", () => byId("input").classList.add("over"));
  addEventListener("dragleave", event => event.relatedTarget || byId("input").classList.remove("over"));
  addEventListener("drop", event => {
    byId("input").classList.remove("over");
    add(event.dataTransfer.files);
  });
  if (navigator.mediaDevices) camera.disabled = false;
  else camera.title = camera.textContent = "The camera needs HTTPS";
  camera.onclick = openCamera;
  take.onclick = takePicture;
  byId("close").onclick = closeCamera;
  score.oninput = () => {
    ownThresholds.checked = false;
    leastScore = Number(score.value);
    redraw();
  };
  score.onchange = () => say(`${output.querySelector("h2").textContent}.`);
  ownThresholds.onchange = redraw;
  byId("save").onclick = save;
  byId("clear").onclick = clear;
}

/** Find objects in some files, one after the other, until all are removed. */
function add(chosen) {
  const own = round;
  for (const file of [...chosen]) queue = queue.then(() => own === round && detect(file));
}

async function detect(file) {
  const own = round;
  say(`Looking at ${file.name}`);
  try {
    const found = await ask({ picture: file });
    if (own !== round) return;
    const objects = found.labels.map((label, i) => {
      if (!categories.has(label)) throw new Error(`the model finds a class ${label} that it does not name`);
      const { name } = categories.get(label);
      return { category: name, category_id: label, score: found.scores[i], box_xyxy: found.boxes[i] };
    });
    const picture = { ...found, name: file.name, objects, boxes: element("div", { className: "boxes" }) };
    picture.list = element("ul", { className: "key" });
    pictures.push(picture);
    byId("pictures").prepend(figure(picture, URL.createObjectURL(file)));
    draw(picture);
    total();
    say(`${file.name}: ${inWords(picture)}.`);
  } catch (error) {
    if (own !== round) return;
    const textContent = `${file.name} is left out: ${error.message}.`;
    byId("left").append(element("li", { textContent })); // the next picture's line replaces this one
    say(textContent);
  }
}

function figure(picture, url) {
  const { name, width, height, preparing, network } = picture;
  const image = element("img", { src: url, alt: name, width, height });
  const times = `${width} × ${height}; network ${network.toFixed(0)} ms, preparing ${preparing.toFixed(0)} ms`;
  const title = element("b", { textContent: name }), facts = element("small", { textContent: times });
  const frame = element("div", { className: "frame" }, image, picture.boxes);
  return element("figure", {}, frame, element("figcaption", {}, title, facts), picture.list);
}

const threshold = category => (ownThresholds.checked ? category.threshold ?? settings.threshold : leastScore);
const shown = ({ objects }) => objects.filter(o => o.score >= threshold(categories.get(o.category_id)));

/** [category, how many of it are shown] of those found. */
function counts(picture) {
  const ids = shown(picture).map(object => object.category_id);
  return settings.categories.map(c => [c, ids.filter(id => id === c.id).length]).filter(([, count]) => count);
}

const inWords = picture => counts(picture).map(([{ name }, count]) => `${count} ${name}`).join(", ") || "nothing found";

function counted({ name, colour }, count = "") {
  const mark = element("i");
  mark.style.background = colour;
  return element("li", {}, mark, `${count} ${name}`.trim());
}

function showThreshold() {
  output.querySelector("output").textContent = ownThresholds.checked ? "by class" : leastScore.toFixed(2);
}

/** Boxes and list of a picture. */
function draw(picture) {
  picture.boxes.replaceChildren(...shown(picture).reverse().flatMap(object => box(object, picture)));
  const list = counts(picture).map(([category, count]) => counted(category, count));
  picture.list.replaceChildren(...(list.length ? list : [element("li", { textContent: "Nothing found" })]));
}

function total() {
  const sum = pictures.reduce((objects, picture) => objects + shown(picture).length, 0);
  output.querySelector("h2").textContent = `${plural(sum, "object")} in ${plural(pictures.length, "picture")}`;
  output.hidden = !pictures.length;
}

/** All pictures anew, after another threshold. */
function redraw() {
  showThreshold();
  pictures.forEach(draw);
  total();
}

/** A box, kept inside the picture, and its caption: along its left side, or the right one in the right half. */
function box({ category, category_id, score, box_xyxy }, { width, height }) {
  const inside = (at, side) => (100 * Math.min(Math.max(at, 0), side)) / side;
  const [left, top, right, bottom] = box_xyxy.map((at, i) => inside(at, i % 2 ? height : width));
  const { colour, ink } = categories.get(category_id);
  const outline = element("i"), caption = element("span", { textContent: `${category} ${score.toFixed(2)}` });
  if (left > 50) caption.className = "right";
  const values = { left, top, right: 100 - right, bottom: 100 - bottom };
  for (const { style } of [outline, caption]) {
    for (const [name, value] of Object.entries(values)) style.setProperty(`--${name}`, `${value}%`);
    style.setProperty("--colour", colour);
    style.setProperty("--ink", ink);
  }
  return [outline, caption];
}

/** The fields of predictions.json, which tools/predict_onnx.py writes; no picture is written here. */
function save() {
  const own = settings.categories.map(category => [category.id, threshold(category)]);
  const bar = ownThresholds.checked
    ? { least_score: null, thresholds: Object.fromEntries(own) }
    : { least_score: leastScore };
  const images = pictures.map(picture => {
    const { name, width, height } = picture;
    return { file: name, picture: null, width, height, objects: shown(picture) };
  });
  const text = JSON.stringify({ ...bar, model_sha256: settings.sha256, images }, null, 1) + "\n";
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { download: "predictions.json", href }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

function clear() {
  round++;
  for (const image of byId("pictures").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  byId("pictures").replaceChildren();
  byId("left").replaceChildren();
  pictures.length = 0;
  total();
  say("The pictures are removed.");
  choose.focus();
}

async function openCamera() {
  camera.disabled = true; // until it is closed
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    viewfinder.hidden = false;
    await video.play(); // until there is a frame
    take.disabled = false;
    take.focus();
  } catch (error) {
    if (error.name === "AbortError" && !video.srcObject) return; // closed before its first frame
    closeCamera();
    say(`The camera does not open: ${error.message}.`);
  }
}

async function takePicture() {
  const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise(resolve => canvas.toBlob(resolve));
  add([new File([blob], `camera-${++shots}.png`, { type: "image/png" })]);
}

function closeCamera() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  take.disabled = viewfinder.hidden = true;
  camera.disabled = false;
  camera.focus();
}
