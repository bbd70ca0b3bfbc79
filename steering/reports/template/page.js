"use strict";

// Sorting: figures by their number, names as text; a second press turns the order round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const place = [...head.parentElement.children].indexOf(head);
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.children[place];
      return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent;
    };
    const rows = [...body.rows].sort((a, b) => {
      const [one, other] = [key(a), key(b)];
      return typeof one === "number" ? one - other : one.localeCompare(other);
    });
    if (down) rows.reverse();
    body.append(...rows);
  });
}

const examples = JSON.parse(document.getElementById("examples").textContent);
const shown = document.getElementById("shown");
const filters = {
  which: document.getElementById("which"),
  question: document.getElementById("question"),
  condition: document.getElementById("condition"),
  misaligned: document.getElementById("misaligned"),
  search: document.getElementById("search"),
};

function part(kind, text, className) {
  const made = document.createElement(kind);
  // As text: what a model says is never markup.
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function told(example) {
  const scores = Object.entries(example.scores).map(([name, score]) => `${name} ${score ?? "unscored"}`);
  return scores.join(", ") + (example.kind === "answer" ? "" : `, ${example.kind}`);
}

// The tokens that a monitor read, each with its projection as colour and as a tooltip.
const strongest = Math.max(0, ...examples.flatMap((e) => (e.tokens ?? []).map(([, value]) => Math.abs(value))));

function line(tokens) {
  const whole = part("p", undefined, "tokens");
  for (const [text, value] of tokens) {
    const token = part("span", text);
    const strength = strongest ? Math.abs(value) / strongest : 0;
    token.style.backgroundColor = `rgba(${value > 0 ? "213, 94, 0" : "0, 114, 178"}, ${(0.85 * strength).toFixed(3)})`;
    token.title = String(value);
    whole.append(token);
  }
  return whole;
}

function card(condition, found, open) {
  const made = part("section", undefined, "card");
  made.append(part("h3", condition));
  for (const example of found) {
    const details = part("details");
    details.open = open;
    const summary = part("summary", `${example.question}: `);
    summary.append(
      part("span", example.misaligned ? "misaligned" : "not misaligned", example.misaligned ? "bad" : ""),
    );
    details.append(
      summary,
      part("p", example.prompt, "pale"),
      part("blockquote", example.answer),
      ...(example.tokens ? [line(example.tokens), part("p", example.monitor, "pale")] : []),
      part("p", told(example), "pale"),
    );
    made.append(details);
  }
  return made;
}

function show() {
  const which = filters.which.value;
  const words = filters.search.value.trim().toLowerCase();
  const ofKind = examples.filter((example) => example[which]);
  if (which === "worst") ofKind.sort((a, b) => a.worst - b.worst);
  const wanted = ofKind.filter(
    (example) =>
      (!words || `${example.question}\n${example.prompt}\n${example.answer}`.toLowerCase().includes(words)) &&
      (!filters.question.value || example.question === filters.question.value) &&
      (!filters.condition.value || example.condition === filters.condition.value) &&
      (!filters.misaligned.checked || example.misaligned),
  );
  const groups = new Map();
  for (const example of wanted) {
    if (!groups.has(example.condition)) groups.set(example.condition, []);
    groups.get(example.condition).push(example);
  }
  const cards = [...groups].map(([condition, found]) => card(condition, found, wanted.length <= 150));
  shown.replaceChildren(...cards);
  document.getElementById("count").textContent =
    `${wanted.length} of ${ofKind.length} examples in ${groups.size} conditions`;
}

// The worst answers are of all questions.
filters.which.addEventListener("change", () => {
  if (filters.which.value === "worst") filters.question.value = "";
});
for (const filter of Object.values(filters)) {
  filter.addEventListener(filter === filters.search ? "input" : "change", show);
}
document.getElementById("reveal").addEventListener("click", () => {
  document.getElementById("warned").hidden = true;
  document.getElementById("gallery").hidden = false;
  show();
  filters.which.focus();
});
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  });
}
