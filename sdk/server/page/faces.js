// Draws the picture with boxes, and one card per face that fills while the answer arrives.

export const COLOURS = ["#0a7d6c", "#b4480f", "#3157b8", "#8a2f9c", "#7a6a00", "#b0214f", "#3d6b12", "#4a5a66"];

const colour = (index) => COLOURS[index % COLOURS.length];

export function draw(canvas, image, boxes) {
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d");
  const unit = Math.max(image.width, image.height) / 400;
  context.drawImage(image, 0, 0);
  context.lineWidth = 2 * unit;
  context.font = `600 ${12 * unit}px system-ui, sans-serif`;
  boxes.forEach(([left, top, right, bottom], index) => {
    context.strokeStyle = context.fillStyle = colour(index);
    context.strokeRect(left, top, right - left, bottom - top);
    context.fillRect(left, top, 18 * unit, 16 * unit);
    context.fillStyle = "#fff";
    context.fillText(index + 1, left + 5 * unit, top + 12 * unit);
  });
}

function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, properties);
}

export class Card {
  constructor(index) {
    this.root = element("article", "", { className: "face" });
    this.root.style.setProperty("--face", colour(index));
    this.root.setAttribute("aria-label", `Face ${index + 1}`);
    this.texts = { emotion: element("p"), action_units: element("p") };
    this.root.append(element("h3", `Face ${index + 1}`), ...Object.values(this.texts));
  }

  add(task, text) {
    this.texts[task].textContent += text;
  }

  complete(face) {
    this.root.replaceChildren(this.root.firstChild);
    if (face.emotion) {
      this.root.append(element("p", face.emotion.label ?? "no clear emotion", { className: "label" }));
      this.root.append(element("p", face.emotion.description));
    }
    const units = (face.action_units ?? []).filter((unit) => unit.present);
    const list = element("ul");
    for (const unit of units) list.append(element("li", `${unit.id} ${unit.name}${unit.reason ? `: ${unit.reason}` : ""}`));
    this.root.append(units.length ? list : element("p", face.action_units ? "No action unit." : ""));
  }
}

export function times(body, milliseconds) {
  body.replaceChildren(
    ...Object.entries(milliseconds).map(([stage, value]) => {
      const row = element("tr");
      row.append(element("th", stage, { scope: "row" }), element("td", value.toFixed(1)));
      return row;
    }),
  );
}

export function describe(list, entries) {
  list.replaceChildren(...entries.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
}
