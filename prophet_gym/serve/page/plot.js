// A curve of values by chunk, with the chunk that is shown.
export function plot(svg, values, now, name) {
  const known = values.filter(Number.isFinite), top = Math.max(...known, 1e-9), wide = Math.max(values.length - 1, 20);
  const x = (place) => (100 * place / wide).toFixed(2), y = (value) => (38 - 34 * Math.max(0, value) / top).toFixed(2);
  let line = "";
  values.forEach((value, place) => { if (Number.isFinite(value)) line += `${line && Number.isFinite(values[place - 1]) ? "L" : "M"}${x(place)} ${y(value)}`; });
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", known.length ? `${name} of ${known.length} chunks, from ${Math.min(...known).toPrecision(2)} to ${top.toPrecision(2)}` : `${name}: nothing yet`);
  const paths = { axis: "M0 38.5H100", curve: line, now: now >= 0 && values.length ? `M${x(now)} 2V38` : "" };
  for (const [kind, path] of Object.entries(paths)) {
    let part = svg.querySelector(`.${kind}`);
    if (!part) { part = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path")); part.classList.add(kind); }
    part.setAttribute("d", path);
  }
}
