// The page of the service: a picture and its restoration side by side. It uses the public routes below /v1 alone.

const $ = (id) => document.getElementById(id);
const [frame, picture, mask, after, slider] = ["frame", "picture", "mask", "after", "slider"].map($);
const paper = mask.getContext("2d", { willReadFrequently: true });
const INK = "#e6177f"; // colour of the mask on the screen; it is sent in black and white

let service = null; // the answer of /v1/service
let token = "";
let photo = null; // { name, file, bitmap }
let running = null; // the id of the job, "" before it has one
let shown = null; // the last drawing of `trace`

// ---------------------------------------------------------------------------------------------- the service

/** Return a successful response. Throws an Error with a message for the user. */
async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The service does not answer. It may have been stopped; try again in a moment.");
  }
  $("unlock").hidden = response.status !== 401;
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({ error: `the service answered ${response.status}` }));
  const wait = response.headers.get("Retry-After");
  throw new Error(wait ? `The service is busy: try again in ${wait} s. (${error})` : error);
}

/** Yield the JSON of each server-sent event. EventSource reads them too, but cannot send a token. */
async function* events(path) {
  const reader = (await ask(path)).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) throw new Error("The service went away before the picture was restored.");
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}

async function greet() {
  service = await (await ask("v1/service")).json();
  if (service.image.any_size) Object.assign(service.image, { width: 256, height: 256 }); // the size of pictures that are damaged here
  const { width, height, any_size } = service.image;
  const size = any_size ? "of any size" : `${width}×${height}`;
  $("about").textContent = `Restores a photograph that a known operator damaged, by the prior ${service.prior}, ${size}.`;
  const factors = [2, 4, 8, 16].filter((r) => width % r === 0 && height % r === 0);
  $("scale").replaceChildren(...factors.map((r) => new Option(`${r}`, r, r === 4, r === 4)));
  const presets = Object.entries(service.presets).sort((a, b) => a[1] - b[1]);
  $("preset").replaceChildren(
    new Option("as the task needs", ""),
    ...presets.map(([name, steps]) => new Option(`${name}, ${steps} steps`, name)),
  );
  $("keep").value = Math.round(Math.min(width, height) * 0.75);
}

// ---------------------------------------------------------------------------------------------- the picture

async function load(file, clean = isClean()) {
  if (running !== null) throw new Error("A picture is being restored; cancel it first.");
  if (!service) await greet();
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`This browser cannot show ${file.name}; choose a picture, such as a PNG, JPEG or WebP.`);
  }
  photo?.bitmap.close();
  photo = { name: file.name, file, bitmap };
  document.querySelector(`[name="clean"][value="${clean ? "yes" : ""}"]`).checked = true;
  if (clean && !$("task").value) $("task").value = "inpaint";
  $("name").textContent = `${photo.name}, ${bitmap.width}×${bitmap.height}`;
  paper.clearRect(0, 0, mask.width, mask.height);
  edit();
}

const isClean = () => $("form").elements.clean.value === "yes";
const isWhole = () => !isClean() && (service.image.any_size || $("fit").value === "own");
const noise = () => $("noise").value.trim() || (isClean() ? ($("task").value === "denoise" ? "25" : "1") : "");

function surface(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return [canvas, canvas.getContext("2d", { willReadFrequently: true })];
}

/** Return the middle of the photograph at the prior's size. */
function cropped() {
  const { width, height } = service.image;
  const { bitmap } = photo;
  const ratio = Math.min(bitmap.width / width, bitmap.height / height);
  const [w, h] = [width * ratio, height * ratio];
  const [canvas, context] = surface(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, width, height);
  return canvas;
}

/** Return the measurement: the photograph as it is, or damaged here. */
function measurement() {
  if (isClean()) return damaged(cropped());
  const { bitmap } = photo;
  const smaller = $("task").value === "outpaint" && isSmall();
  const [canvas, context] = smaller ? surface(service.image.width, service.image.height) : surface(bitmap.width, bitmap.height);
  context.drawImage(bitmap, (canvas.width - bitmap.width) >> 1, (canvas.height - bitmap.height) >> 1);
  return canvas;
}

const isSmall = () => !service.image.any_size && photo.bitmap.width <= service.image.width && photo.bitmap.height <= service.image.height
  && photo.bitmap.width * photo.bitmap.height < service.image.width * service.image.height;

/** Paint over the missing pixels. */
function withHoles(canvas, colour) {
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  if ($("task").value === "inpaint") {
    const [holes, of] = surface(mask.width, mask.height);
    of.drawImage(mask, 0, 0);
    of.globalCompositeOperation = "source-in";
    of.fillStyle = colour;
    of.fillRect(0, 0, holes.width, holes.height);
    context.drawImage(holes, 0, 0);
  } else if ($("task").value === "outpaint" && (isClean() || !isSmall())) {
    const { width, height } = service.image;
    const across = isClean() || isWhole() ? 1 : canvas.width / width;
    const down = isClean() || isWhole() ? 1 : canvas.height / height;
    const least = Math.min(across, down);
    const [sx, sy] = $("fit").value === "resize" ? [across, down] : [least, least];
    const keep = Number($("keep").value);
    const [x, y] = [(canvas.width - keep * sx) >> 1, (canvas.height - keep * sy) >> 1];
    context.beginPath();
    context.rect(0, 0, canvas.width, canvas.height);
    context.rect(x, y, keep * sx, keep * sy);
    context.fill("evenodd");
  }
  return canvas;
}

// ---------------------------------------------------------------------------------------------- damage

/** Return y = A x + noise by the service's operators, rounded to 8 bits. Throws for what cannot be simulated. */
function damaged(clean) {
  const { width, height } = clean;
  const { data } = clean.getContext("2d").getImageData(0, 0, width, height);
  const task = $("task").value;
  let planes = [0, 1, 2].map((c) => Float32Array.from({ length: width * height }, (_, i) => data[4 * i + c]));
  let [w, h] = [width, height];
  if (task === "sr") {
    const r = Number($("scale").value);
    [w, h] = [width / r, height / r];
    planes = planes.map((plane) => blockMean(plane, w, h, r));
  } else if (task === "colorize") {
    planes = Array(3).fill(planes[0].map((red, i) => 0.299 * red + 0.587 * planes[1][i] + 0.114 * planes[2][i]));
  } else if (task === "deblur") {
    planes = planes.map((plane) => blurred(plane, w, h, weights($("kernel").value)));
  }
  const level = Number(noise()) || 0;
  const normal = normals(Number($("seed").value) || 0);
  const grey = task === "colorize" && planes[0].map((value) => value + level * normal());
  planes = planes.map((plane) => grey || plane.map((value) => value + level * normal()));
  const pixels = new ImageData(w, h);
  for (let i = 0; i < w * h; i++) pixels.data.set([planes[0][i], planes[1][i], planes[2][i], 255], 4 * i);
  const [canvas, context] = surface(w, h);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function blockMean(plane, w, h, r) {
  const mean = new Float32Array(w * h);
  plane.forEach((value, i) => {
    mean[Math.floor(i / (w * r * r)) * w + Math.floor((i % (w * r)) / r)] += value / (r * r);
  });
  return mean;
}

/** Return half of a symmetric kernel's factor, its middle first, as the service makes it. */
function weights(text) {
  const [, kind, size] = /^\s*(gaussian|uniform)\s*:\s*(\d*\.?\d+)\s*$/.exec(text) ?? [];
  const number = Number(size);
  if (!(number > 0) || (kind === "uniform" && number % 2 !== 1) || number > 64) {
    throw new Error("A blur that is simulated here is gaussian:STD or uniform:SIZE, an odd one; frugal-rt degrade knows more.");
  }
  const reach = kind === "uniform" ? (number - 1) / 2 : Math.max(1, Math.ceil(4 * number));
  const half = Array.from({ length: reach + 1 }, (_, i) => (kind === "uniform" ? 1 : Math.exp(-((i / number) ** 2) / 2)));
  const sum = 2 * half.reduce((a, b) => a + b) - half[0];
  return half.map((weight) => weight / sum);
}

/** Convolve along both axes over a mirrored border: d c b a | a b c d | d c b a. */
function blurred(plane, w, h, half) {
  const mirror = (i, n) => ((i = ((i % (2 * n)) + 2 * n) % (2 * n)), i < n ? i : 2 * n - 1 - i);
  const along = (from, n, at) =>
    from.map((_, place) => {
      const [i, index] = at(place);
      return half.reduce((sum, weight, d) => {
        const pair = from[index(mirror(i - d, n))] + (d && from[index(mirror(i + d, n))]);
        return sum + weight * pair;
      }, 0);
    });
  const rows = along(plane, w, (place) => [place % w, (x) => place - (place % w) + x]);
  return along(rows, h, (place) => [Math.floor(place / w), (y) => y * w + (place % w)]);
}

/** Return a source of standard normal numbers (Box and Muller) from mulberry32. */
function normals(seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

// ---------------------------------------------------------------------------------------------- the mask

const pen = { x: 0, y: 0 }; // the middle of the brush, in pixels of the picture

const breadth = () => Math.max(1, (Number($("size").value) / 100) * Math.min(mask.width, mask.height));

function paintAt(x, y) {
  const draw = ($("erase").ariaPressed === "true" ? paper.clearRect : paper.fillRect).bind(paper);
  const radius = breadth() / 2;
  paper.fillStyle = INK;
  draw(Math.floor(x), Math.floor(y), 1, 1);
  for (let row = Math.floor(y - radius); row <= y + radius; row++) {
    const half = Math.sqrt(Math.max(0, radius ** 2 - (row + 0.5 - y) ** 2));
    const left = Math.round(x - half);
    draw(left, row, Math.round(x + half) - left, 1);
  }
}

function movePen(x, y, paints) {
  const from = { ...pen };
  pen.x = Math.min(mask.width - 0.5, Math.max(0.5, x));
  pen.y = Math.min(mask.height - 0.5, Math.max(0.5, y));
  const [dx, dy] = [pen.x - from.x, pen.y - from.y];
  const strokes = paints ? Math.max(1, Math.ceil(Math.hypot(dx, dy) / Math.max(0.5, Math.sqrt(breadth()) / 2))) : 0;
  for (let i = 1; i <= strokes; i++) paintAt(from.x + (dx * i) / strokes, from.y + (dy * i) / strokes);
  const brush = $("brush");
  brush.hidden = false;
  brush.style.left = `${(100 * pen.x) / mask.width}%`;
  brush.style.top = `${(100 * pen.y) / mask.height}%`;
  brush.style.width = `${(100 * breadth()) / mask.width}%`;
  brush.style.height = `${(100 * breadth()) / mask.height}%`;
}

function pointed(event) {
  const box = mask.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * mask.width, ((event.clientY - box.top) / box.height) * mask.height];
}

mask.addEventListener("pointerdown", (event) => {
  mask.setPointerCapture(event.pointerId);
  [pen.x, pen.y] = pointed(event);
  movePen(pen.x, pen.y, true);
});
mask.addEventListener("pointermove", (event) => movePen(...pointed(event), event.buttons !== 0));
mask.addEventListener("pointerup", say);
mask.addEventListener("pointerleave", () => ($("brush").hidden = document.activeElement !== mask));
mask.addEventListener("focus", () => movePen(pen.x, pen.y, false));
mask.addEventListener("blur", () => ($("brush").hidden = true));
mask.addEventListener("keydown", (event) => {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key] ?? [];
  if (dx === undefined) return;
  event.preventDefault();
  const stride = Math.max(1, Math.round(breadth() / 4));
  movePen(pen.x + dx * stride, pen.y + dy * stride, event.key === " " || event.shiftKey);
  say();
});
$("erase").addEventListener("click", () => ($("erase").ariaPressed = String($("erase").ariaPressed !== "true")));
$("clear").addEventListener("click", () => (paper.clearRect(0, 0, mask.width, mask.height), say()));
$("hole").addEventListener("click", () => {
  const [w, h] = [mask.width, mask.height].map((side) => Math.max(1, Math.round((side * 3) / 8)));
  paper.fillStyle = INK;
  paper.fillRect((mask.width - w) >> 1, (mask.height - h) >> 1, w, h);
  say();
});

/** Return the share of the picture that is painted. */
function painted() {
  const { data } = paper.getImageData(0, 0, mask.width, mask.height);
  let count = 0;
  for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
  return count / (data.length / 4);
}

// ---------------------------------------------------------------------------------------------- what is sent

function parameters() {
  const task = $("task").value;
  const { width, height } = service.image;
  const asked = {};
  const number = (name, text) => {
    if (text !== "") asked[name] = Number.isFinite(Number(text)) ? Number(text) : text;
  };
  if (task) asked.task = task;
  if (task === "sr") number("scale", $("scale").value);
  if (task === "outpaint" && (isClean() || !isSmall())) asked.keep = [Number($("keep").value), Number($("keep").value)];
  if (task === "deblur") asked.kernel = $("kernel").value.trim();
  number("noise", noise());
  if (!isClean()) {
    const scale = task === "sr" ? Number($("scale").value) : 1;
    const { bitmap } = photo;
    const factor = width / bitmap.width;
    const guessed = !task && Number.isInteger(factor) && factor === height / bitmap.height; // super-resolution
    const fits = guessed || (bitmap.width * scale === width && bitmap.height * scale === height);
    if (task !== "jpeg" && !fits && !isWhole() && !(task === "outpaint" && isSmall())) asked.fit = $("fit").value === "resize" ? "resize" : "crop";
  }
  if ($("method").value) asked.method = $("method").value;
  if ($("steps").value) number("steps", $("steps").value);
  else if ($("preset").value) asked.preset = $("preset").value;
  number("seed", $("seed").value);
  return asked;
}

const png = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

/** Return the form of POST /v1/restore. */
async function request() {
  if (!isClean() && photo.file.size > service.max_bytes) {
    throw new Error(`${photo.name} is larger than the ${service.max_bytes / 2 ** 20} MiB that this service takes.`);
  }
  const form = new FormData();
  if (isClean()) form.append("image", await png(withHoles(measurement(), "black")), photo.name.replace(/\.\w*$/, ".png"));
  else form.append("image", photo.file, photo.name);
  if ($("task").value === "inpaint" && painted()) {
    const [canvas, context] = surface(mask.width, mask.height);
    context.fillRect(0, 0, canvas.width, canvas.height);
    form.append("mask", await png(withHoles(canvas, "white")), "mask.png");
  }
  form.append("parameters", JSON.stringify(parameters()));
  return form;
}

/** Show under the form the request that will be sent. */
function say() {
  if (!photo) return;
  const { width, height } = service.image;
  const task = $("task").value;
  const scale = $("scale").value;
  const keep = $("keep").value;
  const did = {
    inpaint: ", black where you painted",
    outpaint: `, black outside its middle ${keep}×${keep}`,
    sr: `, each pixel the mean of ${scale}×${scale}`,
    colorize: ", in grey (rec601)",
    deblur: `, blurred by ${$("kernel").value.trim()} over a mirrored border`,
  }[task];
  const image = isClean()
    ? `the middle of ${photo.name} at ${width}×${height}${did ?? ""}, with noise of ${noise()} grey levels, as a PNG of 8 bits`
    : `${photo.name} as it is, ${photo.bitmap.width}×${photo.bitmap.height}`;
  const share = task === "inpaint" ? painted() : 0;
  const hidden = share ? `; a mask of that size, white where you painted (${Math.max(1, Math.round(100 * share))}%)` : "";
  const code = document.createElement("code");
  code.textContent = JSON.stringify(parameters()).replaceAll(',"', ', "');
  $("sends").replaceChildren(`Sends ${image}${hidden}; and `, code);
  $("status").textContent = task === "inpaint" && !share ? "Paint what is missing, or take the hole in the middle." : "";
}

// ---------------------------------------------------------------------------------------------- what is seen

function view(state) {
  const paints = state === "edit" && $("task").value === "inpaint";
  frame.className = state;
  for (const [id, visible] of Object.entries({
    invite: state === "empty",
    picture: state !== "empty",
    mask: paints,
    brush: false,
    paint: paints,
    after: state === "done",
    compare: state === "done",
    result: state === "done",
    chart: state === "running" || state === "done",
    work: state === "running",
    cancel: false,
  })) {
    $(id).hidden = !visible;
  }
  $("settings").disabled = $("restore").disabled = state === "running";
}

/** Show the picture that will be sent, to paint on. */
function edit() {
  const task = $("task");
  if (isClean() && ["", "jpeg"].includes(task.value)) task.value = "inpaint";
  task.options[0].disabled = $("jpeg").disabled = isClean();
  for (const field of document.querySelectorAll("[data-for]")) field.hidden = field.dataset.for !== task.value;
  $("sized").hidden = isClean() || service.image.any_size;
  $("noise").placeholder = isClean() ? noise() : task.value === "denoise" || !task.value ? "estimated" : "1.3";
  $("steps").placeholder = service?.presets[$("preset").value] ?? "";
  if (!photo) return view("empty");
  report("");
  view("edit");
  try {
    show(measurement(), false);
    say();
  } catch (error) {
    $("sends").textContent = "";
    report(error.message);
  }
}

/** Put a picture into the frame; a mask of the same size is kept. */
function show(canvas, holes) {
  if (mask.width !== canvas.width || mask.height !== canvas.height) {
    Object.assign(mask, { width: canvas.width, height: canvas.height });
    Object.assign(pen, { x: canvas.width / 2, y: canvas.height / 2 });
  }
  if (holes || $("task").value === "outpaint") withHoles(canvas, "#808080");
  Object.assign(picture, { width: canvas.width, height: canvas.height });
  picture.getContext("2d").drawImage(canvas, 0, 0);
  picture.style.objectFit = $("fit").value === "resize" ? "fill" : "cover";
  shape(canvas.width, canvas.height);
}

/** Give the frame the shape of a picture; a small one shows its pixels. */
function shape(width, height) {
  frame.style.setProperty("--ratio", width / height);
  frame.style.setProperty("--rendering", width < 300 ? "pixelated" : "auto");
}

function report(message) {
  $("alert").textContent = message && message[0].toUpperCase() + message.slice(1);
  if (message) $("alert").scrollIntoView({ block: "nearest" });
}

function cut() {
  frame.style.setProperty("--cut", `${slider.value}%`);
  slider.ariaValueText = `${slider.value}% before`;
}

// ---------------------------------------------------------------------------------------------- restoring

async function restore() {
  if (!photo) throw new Error("Choose a photograph first, or use the sample.");
  const seen = { steps: 0, k: null, trace: [], auto: ["", "frugal"].includes($("method").value) };
  show(measurement(), true);
  running = "";
  shown = null;
  view("running");
  frame.scrollIntoView({ block: "nearest" });
  $("progress").value = 0;
  $("status").textContent = "Sending.";
  $("trace").replaceChildren();
  try {
    const body = await request();
    const answer = await ask("v1/restore?previews=true", { method: "POST", body, headers: { Prefer: "respond-async" } });
    running = (await answer.json()).id;
    $("cancel").hidden = false;
    $("cancel").focus({ preventScroll: true });
    for await (const said of events(`v1/jobs/${running}/events`)) {
      if (said.state === "queued") $("status").textContent = "Waiting for its turn.";
      if (said.state === "running") follow(said, seen);
      if (said.state === "failed") throw new Error(said.error);
      if (said.state === "cancelled") return edit(), ($("status").textContent = "Cancelled.");
      if (said.state === "done") return await finish(said, seen);
    }
  } catch (error) {
    edit();
    throw error;
  } finally {
    running = null;
    if (document.activeElement === document.body) (slider.checkVisibility() ? slider : $("restore")).focus({ preventScroll: true });
  }
}

/** Show a finished step. */
function follow(said, seen) {
  const { left, steps, phase, settled, preview } = said;
  $("progress").max = steps;
  $("progress").value = steps - left;
  $("status").textContent = `Step ${steps - left} of ${steps}${phase === "gradient" ? ", with gradients" : ""}.`;
  if (preview) Object.assign(after, { src: preview, alt: "The estimate so far", hidden: false });
  seen.steps = steps;
  if (phase === "forward") seen.k ??= left + 1;
  if (settled !== null && settled !== seen.trace.at(-1)?.psnr) seen.trace.push({ left, psnr: settled });
  draw(seen);
}

async function finish(said, seen) {
  const blob = await (await ask(`v1/jobs/${said.id}/image`)).blob();
  URL.revokeObjectURL($("download").href);
  after.src = $("download").href = URL.createObjectURL(blob);
  after.alt = "The restored picture";
  $("download").download = photo.name.replace(/(\.\w*)?$/, ".restored.png");
  await after.decode();
  slider.value = 50;
  cut();
  view("done");
  if (said.unchanged) {
    $("status").textContent = `Left as it was: ${said.because}.`;
    return;
  }
  Object.assign(seen, { k: said.k, trace: said.trace, steps: said.steps });
  draw(seen);
  const calls = `${said.forwards} network calls, ${said.gradients || "none"} of them with a gradient`;
  const truth = isClean() ? ` Its PSNR to the photograph is ${psnr(cropped(), after).toFixed(1)} dB.` : "";
  $("status").textContent = `Restored (${said.task}: ${said.because}) in ${said.seconds.toFixed(1)} s: ${calls}.${truth} ${switched(seen)}`;
}

function switched({ k, steps, trace, auto }) {
  if (k === steps || k === 0) return "";
  const agreed = trace.findLast(({ left }) => left >= k)?.psnr;
  const why = auto && agreed >= service.switch.threshold ? `, where two estimates agreed to ${agreed.toFixed(1)} dB` : "";
  return `No gradients with ${k} of ${steps} steps left${why}.`;
}

function psnr(canvas, image) {
  const { width, height } = canvas;
  const [, context] = surface(width, height);
  context.drawImage(image, 0, 0, width, height);
  const [a, b] = [canvas.getContext("2d"), context].map((one) => one.getImageData(0, 0, width, height).data);
  const sum = a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0); // alpha is 255 in both
  return 10 * Math.log10((255 ** 2 * width * height * 3) / sum);
}

// ---------------------------------------------------------------------------------------------- the trace

function draw(seen) {
  shown = seen;
  const { steps, k, trace, auto } = seen;
  if (!trace.length) return;
  const [width, height] = [$("trace").clientWidth, 250];
  const [left, right, top, bottom] = [28, 12, 30, 48];
  const { threshold, earliest, latest } = service.switch;
  const values = [...trace.map((one) => one.psnr), ...(auto ? [threshold] : [])];
  const low = Math.floor(Math.min(...values) / 5) * 5;
  const high = Math.ceil((Math.max(...values) + 1) / 5) * 5;
  const x = (value) => left + ((steps - value) / steps) * (width - left - right);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const parts = [];
  const add = (name, attributes, text) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    if (text !== undefined) one.textContent = text;
    parts.push(one);
  };
  const line = (kind, x1, y1, x2, y2) => add("line", { class: kind, x1, y1, x2, y2 });
  const foot = height - bottom;

  for (let dB = low; dB <= high; dB += high - low > 20 ? 10 : 5) {
    line("grid", left, y(dB), width - right, y(dB));
    add("text", { x: left - 6, y: y(dB) + 4, "text-anchor": "end" }, dB);
  }
  const tick = [1, 2, 5, 10, 20, 25, 50, 100].find((one) => steps / one <= 5) ?? 200;
  for (let value = 0; value <= steps; value += tick) {
    line("grid", x(value), foot, x(value), foot + 4);
    add("text", { x: x(value), y: foot + 18, "text-anchor": "middle" }, value);
  }
  add("text", { x: width - right, y: height - 6, "text-anchor": "end" }, "steps left");
  if (auto) {
    // Only between these two may the estimates settle the switch.
    const [from, to] = [x(Math.floor(earliest * steps)), x(Math.ceil(latest * steps))];
    line("settled", from, y(threshold), to, y(threshold));
    add("text", { x: (from + to) / 2, y: y(threshold) + 4, "text-anchor": "middle" }, `settled: ${threshold} dB`);
  }

  const at = k ?? 0; // earlier steps may have taken gradients
  const early = trace.filter((one) => one.left >= at);
  const late = trace.filter((one) => one.left < at);
  for (const [kind, some] of [["gradient", early], ["forward", [...early.slice(-1), ...late]]]) {
    add("path", { class: kind, d: some.map((one, i) => `${i ? "L" : "M"}${x(one.left)} ${y(one.psnr)}`).join("") });
  }
  for (const one of early) add("circle", { class: "gradient", cx: x(one.left), cy: y(one.psnr), r: 3 });
  for (const one of late) add("rect", { class: "forward", x: x(one.left) - 3, y: y(one.psnr) - 3, width: 6, height: 6 });
  add("text", { class: "gradient", x: left, y: height - 6 }, "● gradients");
  add("text", { class: "forward", x: left + 96, y: height - 6 }, "□ none");
  if (at > 0 && at < steps) {
    line("switch", x(at), top - 8, x(at), foot);
    const anchor = x(at) > width - 90 ? "end" : x(at) < 90 ? "start" : "middle";
    add("text", { class: "switch", x: x(at), y: 14, "text-anchor": anchor }, `switch t_C: ${at} ${at === 1 ? "step" : "steps"} left`);
  }

  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  const ends = [trace[0], trace.at(-1)].map((one) => one.psnr.toFixed(0)).join(" to ");
  svg.setAttribute("aria-label", `PSNR between estimates over the steps, from ${ends} dB. ${k === null ? "" : switched(seen)}`);
  svg.append(...parts);
  $("trace").replaceChildren(svg);
}

// ---------------------------------------------------------------------------------------------- events

/** Run `work`, and show its error to the user. */
const trying = (work) => async (event) => {
  report("");
  try {
    await work(event);
  } catch (error) {
    report(error.message);
  }
};

$("file").addEventListener("change", trying(async () => $("file").files[0] && (await load($("file").files[0]))));
$("sample").addEventListener("click", trying(async () => {
  const blob = await (await ask("sample.png")).blob();
  await load(new File([blob], "portrait.png", { type: "image/png" }), true);
}));
addEventListener("paste", trying(async ({ clipboardData }) => clipboardData.files[0] && (await load(clipboardData.files[0]))));
addEventListener("dragover", (event) => {
  event.preventDefault();
  frame.classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget ?? frame.classList.remove("over"));
addEventListener("drop", trying(async (event) => {
  event.preventDefault();
  frame.classList.remove("over");
  if (event.dataTransfer.files[0]) await load(event.dataTransfer.files[0]);
}));
for (const kind of ["input", "change"]) $("form").addEventListener(kind, () => running ?? edit());
$("form").addEventListener("submit", (event) => (event.preventDefault(), trying(restore)()));
$("cancel").addEventListener("click", trying(async () => running && (await ask(`v1/jobs/${running}`, { method: "DELETE" }))));
addEventListener("pagehide", () => running && ask(`v1/jobs/${running}`, { method: "DELETE", keepalive: true }).catch(() => {}));
$("back").addEventListener("click", () => (edit(), $("restore").focus()));
slider.addEventListener("input", cut);
after.addEventListener("load", () => shape(after.naturalWidth, after.naturalHeight));
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  trying(async () => {
    await greet();
    edit();
  })();
});
new ResizeObserver(() => $("chart").hidden || !shown || draw(shown)).observe($("trace"));
trying(greet)().then(edit);
