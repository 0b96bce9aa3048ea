// The page: takes a picture, shows what the server reads from it.

import { csv, save } from "./downloads.js";
import { Card, describe, draw, times } from "./faces.js";
import { analyze, ask, model, setKey } from "./server.js";

const get = (id) => document.getElementById(id);
const state = { picture: null, image: null, analysis: null, name: "", stop: null, camera: null };

function say(text, failed = false) {
  get("status").textContent = text;
  get("status").className = failed ? "error" : "";
}

async function withKey(work) {
  try {
    return await work();
  } catch (error) {
    if (error.status !== 401) throw error;
    get("key-dialog").showModal();
    await new Promise((resolve) => get("key-dialog").addEventListener("close", resolve, { once: true }));
    setKey(get("key").value);
    return work();
  }
}

async function show(picture) {
  state.stop?.abort();
  state.stop = new AbortController();
  const { signal } = state.stop;
  get("faces").replaceChildren();
  get("after").hidden = get("shown").hidden = true;
  get("answer").textContent = "";
  Object.assign(state, { picture, analysis: null, image: await createImageBitmap(picture).catch(() => null) });
  const paint = (boxes) => {
    if (!state.image) return; // a format that this browser cannot show
    draw(get("canvas"), state.image, boxes);
    get("shown").hidden = false;
  };
  paint([]);
  say("Reading the picture …");
  try {
    await withKey(() => read(picture, signal, paint));
  } catch (error) {
    if (!signal.aborted) say(error.message, true);
  }
}

async function read(picture, signal, paint) {
  let cards = [];
  for await (const { event, data } of analyze(picture, signal)) {
    if (event === "faces") {
      paint(data.boxes_xyxy);
      cards = data.boxes_xyxy.map((_, index) => new Card(index));
      get("faces").replaceChildren(...cards.map((card) => card.root));
      say(cards.length ? `${count(cards.length)} found. Reading …` : "No face was found in this picture.");
    } else if (event === "text") {
      cards[data.face].add(data.task, data.text);
    } else if (event === "done") {
      state.analysis = data;
      data.faces.forEach((face, index) => cards[index].complete(face));
      times(get("times").tBodies[0], data.timing_ms);
      if (cards.length) say(`${count(cards.length)} read.`);
      get("after").hidden = !cards.length;
    }
  }
}

const count = (number) => (number === 1 ? "One face" : `${number} faces`);

async function answer(event) {
  event.preventDefault();
  const button = get("question").querySelector("button");
  button.disabled = true;
  get("answer").textContent = "";
  get("answer").className = "";
  try {
    for await (const piece of ask(state.picture, get("asked").value, state.name)) get("answer").textContent += piece;
  } catch (error) {
    get("answer").textContent = error.message;
    get("answer").className = "error";
  }
  button.disabled = false;
}

async function openCamera() {
  try {
    state.camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
  } catch (error) {
    say(`The camera cannot be opened: ${error.message}`, true);
    return;
  }
  get("video").srcObject = state.camera;
  await get("video").play();
  get("viewfinder").hidden = false;
  get("shoot").focus();
}

function closeCamera() {
  state.camera?.getTracks().forEach((track) => track.stop());
  get("viewfinder").hidden = true;
  get("camera").focus();
}

function shoot() {
  const video = get("video");
  const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  canvas.toBlob(show, "image/jpeg", 0.95);
}

const first = (files) => [...files].find((file) => file.type.startsWith("image/")) ?? files[0];

get("choose").addEventListener("click", () => get("file").click());
get("file").addEventListener("change", () => get("file").files.length && show(first(get("file").files)));
get("camera").addEventListener("click", openCamera);
get("shoot").addEventListener("click", shoot);
get("stop-camera").addEventListener("click", closeCamera);
get("question").addEventListener("submit", answer);
get("save-json").addEventListener("click", () => save(JSON.stringify(state.analysis, null, 1), "analysis.json", "application/json"));
get("save-csv").addEventListener("click", () => save(csv(state.analysis), "analysis.csv", "text/csv"));
get("save-picture").addEventListener("click", () => get("canvas").toBlob((blob) => save(blob, "analysis.png")));
document.addEventListener("paste", (event) => event.clipboardData.files.length && show(first(event.clipboardData.files)));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    get("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) show(first(event.dataTransfer.files));
  });
}

try {
  const found = await withKey(model);
  state.name = found.id;
  get("notice").textContent = found.notice ?? "";
  const licences = found.licences.map(({ part, licence }) => [`Licence, ${part}`, licence]);
  describe(get("model"), [["Model", found.id], ["Backend", found.backend], ["Intended use", found.intended_use ?? ""], ...licences]);
} catch (error) {
  say(error.message, true);
}
