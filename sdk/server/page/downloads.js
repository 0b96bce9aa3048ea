// Files that the page offers.

export function save(content, name, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

const quote = (value) => `"${String(value ?? "").replaceAll('"', '""').replace(/^[=+@\-\t\r]/, "'$&")}"`;

export function csv(analysis) {
  const rows = analysis.faces.map((face) => [
    face.id,
    ...face.box_xyxy,
    face.emotion?.label,
    face.emotion?.description,
    (face.action_units ?? []).filter((unit) => unit.present).map((unit) => unit.id).join(" "),
  ]);
  const head = ["face", "left", "top", "right", "bottom", "emotion", "description", "action_units"];
  return [head, ...rows].map((row) => row.map(quote).join(",")).join("\r\n") + "\r\n";
}
