"use strict";
// Blind votes on pairs of dialogues. Text is set as text, never as HTML.

const QUESTIONS = {
  engaging: "Who would you prefer to talk to for a long conversation?",
  human: "Which speaker sounds more human?",
};
const CHOICES = { first: "First", tie: "No difference", second: "Second" };
const KEYS = { 1: "first", 0: "tie", 2: "second" };
const { id, name, models, pairs } = JSON.parse(document.getElementById("data").textContent);
const PLACE = `selfchat ${id}`; // in the storage of the browser
const state = load();

/** What this browser kept: places of pairs in a drawn order, which are swapped, and the votes. */
function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(PLACE));
    if (kept.order.length === pairs.length) return kept;
  } catch {
    // Nothing is kept, or the browser keeps nothing for files.
  }
  const order = [...pairs.keys()];
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return { order, swapped: order.map(() => Math.random() < 0.5), votes: [] };
}

function keep() {
  try {
    localStorage.setItem(PLACE, JSON.stringify(state));
  } catch {
    // The votes last as long as the page.
  }
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** What the vote of a number is on: a question, and two dialogues as shown; null after the last. */
function task(number) {
  const questions = Object.keys(QUESTIONS), place = Math.floor(number / questions.length);
  if (place >= pairs.length) return null;
  const [one, other] = pairs[state.order[place]];
  const sides = state.swapped[place] ? [other, one] : [one, other];
  return { question: questions[number % questions.length], sides };
}

/** Who is judged in a dialogue, A or B: who answers its opening. */
function judged(dialogue) {
  return dialogue.messages[0].role === "A" ? "B" : "A";
}

/** Who is better by a vote, A or B; null for no difference. */
function better({ choice }, number) {
  const [first, second] = task(number).sides.map(judged);
  return { first, second, tie: null }[choice];
}

function vote(choice) {
  if (!task(state.votes.length)) return;
  state.votes.push({ choice, time: new Date().toISOString() });
  keep();
  show();
}

function takeBack() {
  state.votes.pop();
  keep();
  show();
}

function showSide(dialogue, title) {
  const turns = dialogue.messages.map(({ role, content }) =>
    element("div", { className: role === judged(dialogue) ? "turn judged" : "turn" },
      element("span", { className: "who" }, role === judged(dialogue) ? "●" : "○"),
      element("p", { className: "said", dir: "auto" }, content)));
  return element("article", { className: "side" }, element("h3", {}, title), ...turns);
}

function showQuestion(question, place) {
  const next = state.votes.length % Object.keys(QUESTIONS).length;
  const answer = place < next ? state.votes.at(place - next).choice : null;
  const buttons = Object.entries(CHOICES).map(([choice, label]) => {
    const button = element("button", { type: "button", disabled: place !== next }, label);
    button.setAttribute("aria-pressed", String(choice === answer));
    button.addEventListener("click", () => vote(choice));
    return button;
  });
  return element("fieldset", {}, element("legend", {}, QUESTIONS[question]),
    element("div", { className: "choices" }, ...buttons));
}

/** The interval of Wilson (1927), 95 %, of `wins` among `all`. */
function interval(wins, all) {
  const z = 1.959964, share = wins / all, scale = 1 + (z * z) / all;
  const middle = (share + (z * z) / (2 * all)) / scale;
  const half = (z / scale) * Math.sqrt((share * (1 - share)) / all + (z * z) / (4 * all * all));
  return [middle - half, middle + half];
}

function tallyLine(question) {
  const winners = state.votes.map(better).filter((_, i) => task(i).question === question);
  const [a, b] = ["A", "B"].map((letter) => winners.filter((each) => each === letter).length);
  const title = element("strong", {}, QUESTIONS[question]);
  const ties = `No difference: ${winners.length - a - b}.`;
  if (a + b === 0) return element("p", {}, title, ` No choice yet. ${ties}`);
  const [low, high] = interval(a, a + b).map((share) => Math.round(100 * share));
  const verdict = low <= 50 && 50 <= high ? " That is within chance." : "";
  return element("p", {}, title, ` A, ${models.A}: ${a}. B, ${models.B}: ${b}. ${ties} A has ` +
    `${Math.round((100 * a) / (a + b))} % of the choices, 95 % interval ${low} to ${high} %.` +
    verdict);
}

function show() {
  const next = task(state.votes.length), questions = Object.keys(QUESTIONS);
  const done = Math.floor(state.votes.length / questions.length);
  document.getElementById("sides").replaceChildren(...(next
    ? [showSide(next.sides[0], "First"), showSide(next.sides[1], "Second")]
    : [element("p", {}, "All pairs are done. Save the votes.")]));
  document.getElementById("questions").replaceChildren(...(next ? questions.map(showQuestion) : []));
  document.getElementById("progress").textContent = `${done} of ${pairs.length} pairs done`;
  for (const button of ["back", "save"])
    document.getElementById(button).disabled = state.votes.length === 0;
  document.getElementById("tally").replaceChildren(...questions.map(tallyLine));
}

/** A vote as votes on replies are written; in the place of a reply are the turns of a dialogue. */
function asRow(vote, number) {
  const { question, sides } = task(number), winner = better(vote, number);
  const texts = sides.map(({ messages }) => messages.slice(1).map(({ content }) => content));
  const names = sides.map((dialogue) => models[judged(dialogue)]);
  const place = vote.choice === "second" ? 1 : 0;
  return {
    question,
    context: [sides[0].messages[0].content],
    chosen: winner && texts[place],
    rejected: winner ? texts[1 - place] : texts,
    chosen_model: winner && names[place],
    rejected_model: winner ? names[1 - place] : names,
    vote: winner ? "better" : "tie",
    time: vote.time,
  };
}

/** Write a vote a line to a file. */
function saveVotes() {
  const lines = state.votes.map((each, i) => JSON.stringify(asRow(each, i)) + "\n");
  const url = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  element("a", { href: url, download: `${name}.votes.jsonl` }).click();
  URL.revokeObjectURL(url);
}

document.getElementById("back").addEventListener("click", takeBack);
document.getElementById("save").addEventListener("click", saveVotes);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key === "Backspace" && state.votes.length) takeBack();
  if (event.key in KEYS) vote(KEYS[event.key]);
});
document.getElementById("votes").hidden = false;
show();
