// Runs the network in this folder. Everything the page shows of it is in net.json, which
// export.py writes beside net.onnx; the page itself knows no network, class or sample.
"use strict";

const RUNTIME = ["ort.wasm.bundle.min.js", "ort-wasm-simd-threaded.wasm"];  // onnxruntime-web
const TOP = 5;  // classes shown
const UNIT = 2 ** 22;  // of the weights in resizing
const UNSURE = 0.5;  // a highest probability below this gets a note
const HOW_TO_SERVE = "In the repository, run “python export.py --page site” and then " +
  "“python -m http.server --directory site”, and open http://localhost:8000/.";

const find = (selector) => document.querySelector(selector);
const video = find("video"), viewfinder = find("#viewfinder"), input = find("#file");
let cameraIsOpening = false;
let shown = 0;  // how many images were asked for; an answer to an earlier one is dropped

async function load() {
  if (location.protocol === "file:") {
    throw new Error(`Browsers do not run this page from a file. ${HOW_TO_SERVE}`);
  }
  const about = await fetched("net.json", (response) => response.json());
  present(about);
  const [ort, wasm, onnx] = await Promise.all([
    imported(RUNTIME[0]),
    fetched(RUNTIME[1], (response) => response.arrayBuffer()),
    fetched("net.onnx", (response) => response.arrayBuffer()),
  ]);
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1;  // more need headers that a plain file server does not send
  const session = await ort.InferenceSession.create(new Uint8Array(onnx));
  const classify = async (planes) => {
    const shape = [1, 3, about.image_size, about.image_size];
    const { logits } = await session.run({ images: new ort.Tensor("uint8", planes, shape) });
    return probabilities(logits.data);
  };
  await classify(new Uint8Array(3 * about.image_size ** 2));  // the first run is slower
  return { ...about, classify };
}

async function imported(name) {
  try {
    return await import(`./${name}`);
  } catch (error) {
    const type = await fetched(name, (response) => response.headers.get("Content-Type"));
    if (/javascript/.test(type)) throw error;
    throw new Error(`This server sends ${name} as ${type}, which browsers do not run: it has to ` +
      "send it as text/javascript.");
  }
}

async function fetched(name, read) {
  try {
    const response = await fetch(name);
    if (response.ok) return await read(response);
  } catch { /* the network is gone, or something else is served under this name */ }
  return isMissing(name);
}

function isMissing(name) {
  throw new Error(`${name} is not beside this page. ${HOW_TO_SERVE}`);
}

function probabilities(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// What net.json says of the network.
function present({ name, parameters, accuracy, evaluated_on, classes, samples, repository }) {
  document.title = `Image classifier: ${name}`;
  find("#known").textContent = `The ${classes.length} classes it knows`;
  find("#classes").replaceChildren(...classes.map((each) => element("li", each)));
  const facts = [["Name", name], ["Parameters", parameters.toLocaleString("en")]];
  if (accuracy !== null) facts.push(["Top-1 accuracy", `${accuracy.toFixed(2)} %`, evaluated_on]);
  find("dl").replaceChildren(...facts.map(([term, value, remark]) => {
    const group = element("div"), detail = element("dd", value);
    if (remark) detail.append(element("small", `on ${remark}`));
    group.append(element("dt", term), detail);
    return group;
  }));
  find("#samples ul").replaceChildren(...samples.map(sampleButton));
  find("#samples").hidden = !samples.length;
  find("#about").hidden = false;
  if (repository) {
    find("footer a").href = repository;
    find("footer").hidden = false;
  }
}

function sampleButton(sample) {
  const item = element("li"), button = element("button"), image = element("img");
  image.src = sample.image;
  image.alt = `Sample image of ${article(sample.class)} ${sample.class}`;
  button.type = "button";
  button.ariaPressed = "false";
  button.append(image);
  button.addEventListener("click", () => {
    show(fetch(sample.image).then((response) => response.blob()), image.alt, button);
  });
  item.append(button);
  return item;
}

function article(noun) {
  return /^(?!uni|eu|one\b)[aeiou]|^8|^1[18]\b/i.test(noun) ? "an" : "a";
}

function element(tag, text = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

// Classifies an image file or the promise of one; `name` is its text alternative, `button` that of
// the sample, if it is one.
async function show(file, name, button = null) {
  const turn = ++shown;
  complain("");
  find("#empty").hidden = true;
  let blob, pixels;
  try {
    blob = await file;
    pixels = await pixelsOf(blob);
  } catch {
    if (turn === shown) complain(`${name} is not an image that this browser can read.`);
    return;
  }
  const { image_size, classes, classify } = await network;
  const image = toNetworkSize(pixels, image_size);
  const start = performance.now();
  const values = await classify(planesOf(image));
  const milliseconds = performance.now() - start;
  if (turn !== shown) return;
  showPictures(blob, name, pixels, image);
  list(values, classes);
  find("#latency").textContent = `${name}: ${milliseconds.toFixed(1)} ms in this browser`;
  for (const each of document.querySelectorAll("#samples button")) {
    each.ariaPressed = String(each === button);
  }
  find("#answer").hidden = false;
}

function showPictures(blob, name, { width, height }, image) {
  const original = find("#original"), canvas = find("#input");
  URL.revokeObjectURL(original.src);
  original.src = URL.createObjectURL(blob);
  original.alt = name;
  original.style.width = `${100 * Math.min(1, width / height)}%`;
  original.className = Math.max(width, height) <= 2 * image.width ? "small" : "";
  canvas.width = canvas.height = image.width;
  canvas.getContext("2d").putImageData(image, 0, 0);
  find("#original-size").textContent = `${width}x${height} pixels`;
  find("#input-size").textContent = `${image.width}x${image.height} pixels`;
}

function list(values, classes) {
  const percent = (index) => `${(100 * values[index]).toFixed(1)} %`;
  const order = [...values.keys()].sort((a, b) => values[b] - values[a]);
  find("#verdict").textContent = `${classes[order[0]]}, ${percent(order[0])}`;
  find("#unsure").hidden = values[order[0]] >= UNSURE;
  find("#probabilities").replaceChildren(...order.slice(0, TOP).map((index) => {
    const item = element("li"), bar = element("div"), fill = element("div");
    const share = element("span", percent(index));
    bar.className = "bar";
    fill.style.width = `${100 * values[index]}%`;
    bar.append(fill);
    share.className = "percent";
    item.append(element("span", classes[index]), bar, share);
    return item;
  }));
}

function complain(message) {
  find("#error").textContent = message;
  if (message) find("#answer").hidden = true;
}

// The pixels of an image file, turned upright and composited on white, as in predict.py.
async function pixelsOf(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height);
}

// Pillow's bilinear filter, which predict.py uses: a triangle as wide as the reduction, each axis
// by itself and rounded to 8 bits, with weights that are multiples of 1 / UNIT. As in Pillow since
// version 13, the axis comes first that leaves fewer pixels to the other.
function toNetworkSize({ data, width, height }, side) {
  if (width < height) {
    const turned = { data: transposed(data, width, height), width: height, height: width };
    return new ImageData(transposed(toNetworkSize(turned, side).data, side, side), side, side);
  }
  const narrow = resizedRows(data, width, height, side);
  const low = resizedRows(transposed(narrow, side, height), height, side, side);
  return new ImageData(transposed(low, side, side), side, side);
}

function resizedRows(pixels, width, height, side) {
  const out = new Uint8ClampedArray(side * height * 4);
  const scale = width / side, support = Math.max(scale, 1);
  for (let x = 0; x < side; x++) {
    const center = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(width, Math.trunc(center + support + 0.5));
    const weights = [];
    for (let i = first; i < last; i++) {
      weights.push(Math.max(0, 1 - Math.abs((i - center + 0.5) / support)));
    }
    const sum = weights.reduce((a, b) => a + b);
    weights.forEach((weight, i) => weights[i] = Math.floor(weight / sum * UNIT + 0.5));
    for (let y = 0; y < height; y++) {
      for (let channel = 0; channel < 4; channel++) {
        let value = 0, at = (y * width + first) * 4 + channel;
        for (let i = 0; i < weights.length; i++, at += 4) value += weights[i] * pixels[at];
        out[(y * side + x) * 4 + channel] = Math.floor(value / UNIT + 0.5);
      }
    }
  }
  return out;
}

function transposed(pixels, width, height) {
  const out = new Uint8ClampedArray(pixels.length);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) for (let c = 0; c < 4; c++) {
    out[(x * height + y) * 4 + c] = pixels[(y * width + x) * 4 + c];
  }
  return out;
}

// RGBA pixel by pixel -> all red, all green, all blue: the network's input.
function planesOf({ data }) {
  const count = data.length / 4, planes = new Uint8Array(3 * count);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) planes[c * count + i] = data[4 * i + c];
  }
  return planes;
}

async function openCamera() {
  if (cameraIsOpening) return;  // a second stream would never be stopped
  complain("");
  cameraIsOpening = true;
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment" },
    });
    await video.play();  // so that there is a picture to take when the dialog opens
    viewfinder.showModal();
  } catch {
    stopCamera();
    complain("This browser does not let the page use the camera.");
  } finally {
    cameraIsOpening = false;
  }
}

function stopCamera() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

function takePicture() {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  viewfinder.close();
  show(canvas.convertToBlob(), "Picture from the camera");
}

function listen() {
  input.addEventListener("change", () => {
    if (input.files[0]) show(input.files[0], input.files[0].name);
    input.value = "";  // so that the same file can be chosen again
  });
  const drop = find("#drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  for (const end of ["drop", "dragleave"]) {
    document.addEventListener(end, () => drop.classList.remove("over"));
  }
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const [dropped] = event.dataTransfer.files;
    if (dropped) show(dropped, dropped.name);
  });
  document.addEventListener("paste", (event) => {
    const [pasted] = event.clipboardData.files;
    if (pasted) show(pasted, "Pasted image");
  });
  find("#camera").addEventListener("click", openCamera);
  find("#shutter").addEventListener("click", takePicture);
  find("#cancel").addEventListener("click", () => viewfinder.close());
  viewfinder.addEventListener("close", stopCamera);
  navigator.mediaDevices?.enumerateDevices().then((devices) => {
    find("#camera").hidden = !devices.some((device) => device.kind === "videoinput");
  });
}

const network = load();
listen();
network.then(() => {
  find("#empty").hidden = shown > 0;
  if (!shown) find("#samples button")?.click();
}, (error) => {
  complain(error.message);
  for (const section of document.querySelectorAll("section")) section.hidden = true;
}).finally(() => find("#loading").hidden = true);
