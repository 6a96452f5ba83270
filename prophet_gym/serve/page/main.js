// The page of `prophet play`: it samples what the user does at the robot's rate and shows the frames at the same rate. A
// chunk is dreamt as if what is held stayed; when that changes, it is dreamt again from its start, with the actions whose
// frames were shown and the new ones. So an input waits for two dreams at most, not for the end of the chunk.
import { Driver } from "./driver.js";
import { plot } from "./plot.js";
import { Channel, pack } from "./wire.js";

const $ = (id) => document.getElementById(id);
const about = await (await fetch("/about")).json();
const most = Math.floor(about.longest / about.chunk); // chunks of an episode: all of its frames are kept, for its clip
const step = 1000 / about.fps, [height, width] = about.frame_size, size = 3 * height * width, both = about.cameras.length > 1;
const state = { playing: false, busy: true, asked: false, shown: 0, planned: 0, ticked: 0, behind: 0 };
const driver = new Driver(about, $("views"), () => { if (!state.playing && !state.busy && !over()) play(true); });
let dream, simulator, start, branch, branches = [], plan = [], waits = [], delays = [], ticks = [], delay = NaN, plotted;

// Where a view's frame comes from: images of every frame, or of the hand, which is seen once a chunk.
const every = (world) => (frame) => world()?.frames[Math.min(frame, world().frames.length - 1)];
const hand = (world) => (frame) => { const seen = world()?.hands; return seen?.[Math.min(Math.floor(frame / about.chunk), seen.length - 1)]; };
const worlds = [["Dream", () => branch], ...(about.beside.length ? [["Simulator", () => branch?.beside]] : [])];
const views = worlds.flatMap(([label, world]) => [[label, every(world)], ...(both ? [[`${label}, hand`, hand(world)]] : [])])
  .map(([label, at]) => {
    const figure = $("views").appendChild(document.createElement("figure"));
    figure.innerHTML = `<figcaption>${label}</figcaption><canvas role="img" tabindex="0" aria-label="${label}: drag to drive"></canvas>`;
    const canvas = Object.assign(figure.lastChild, { width, height });
    const image = new ImageData(new Uint8ClampedArray(4 * width * height).fill(255), width, height);
    return { label, at, image, context: canvas.getContext("2d", { willReadFrequently: true }) };
  });
$("views").classList.toggle("many", views.length > 1);
$("model").textContent = about.name;
$("still").checked = matchMedia("(prefers-reduced-motion: reduce)").matches;

function draw() {
  const at = state.shown, chunk = Math.max(0, Math.ceil(at / about.chunk) - 1), told = branch.chunks[chunk];
  for (const { at: frameAt, context, image } of views) {
    const pixels = frameAt(at);
    if (!pixels) continue;
    for (let from = 0, to = 0; from < size; to++) if (to % 4 < 3) image.data[to] = pixels[from++];
    context.putImageData(image, 0, 0);
  }
  Object.assign($("seek"), { max: branch.frames.length - 1, value: at });
  $("frame").textContent = `${at} of ${branch.frames.length - 1}`;
  if (plotted === (plotted = [branches.indexOf(branch), chunk, branch.chunks.length, branch.chunks.at(-1)?.uncertainty].join())) return;
  for (const name of ["uncertainty", "reward"]) {
    $(name).value = Number.isFinite(told?.[name]) ? told[name].toPrecision(3) : "–";
    plot($(`${name}-plot`), branch.chunks.map((each) => each[name]), chunk, name);
  }
}

function say(text, kind = "") { if ($("say").textContent !== text) $("say").textContent = text; $("say").className = kind; }
const over = () => branch && (branch.done || branch.chunks.length >= most);
function play(on) {
  state.playing = on &&= Boolean(branch);
  [plan, waits] = [[], []];
  state.planned = state.shown;
  $("play").textContent = on ? "Pause" : "Drive";
  if (on) say(`${start.instruction}.`);
}

async function alone(work) { // one thing at a time, and no step meanwhile
  if (state.busy) return;
  state.busy = true;
  play(false);
  try { await state.pending; await work(); } catch (error) { say(error.message, "wrong"); }
  state.busy = false;
}

// Take the frames of a world's next chunk, or of one that was dreamt again, and what is told of it into its record.
function record(world, found, chunk = (world.frames.length - 1) / about.chunk) {
  const { frames } = found.info, from = 1 + chunk * about.chunk;
  for (let place = 0; place < about.chunk; place++) {
    world.frames[from + place] = frames ? frames.data.subarray(place * size, (place + 1) * size) : world.frames[from - 1];
  }
  world.hands[1 + chunk] = found.observation.wrist_image?.data;
  world.done ||= Boolean(found.terminated.data[0] || found.truncated.data[0]);
}
const opened = (found) => ({ frames: [found.observation.image.data], hands: [found.observation.wrist_image?.data], done: false });
const saved = (message = {}) => dream.ask("snapshot", message).then(({ states }) => new Blob([states[0]])); // a browser may put it on its disk
const copied = (world, chunks) => ({ frames: world.frames.slice(0, 1 + chunks * about.chunk), hands: world.hands.slice(0, 1 + chunks), done: false });

async function open(channel, path, split) {
  if (channel?.split === split && channel.path === path && channel.usable) return channel;
  channel?.close();
  const made = Object.assign(new Channel(path), { split, path });
  await made.ask("create", { max_episode_steps: about.horizon, autoreset_mode: "Disabled", starts: split, cameras: about.cameras });
  return made;
}

async function begin() {
  const split = $("split").value, index = Number($("start").value);
  say("Beginning …");
  start = about.starts[split][index];
  dream = await open(dream, "/ws", split);
  branch = { ...opened(await dream.ask("reset", { seed: 0, options: { start: index } })), chunks: [], snapshots: [saved()] };
  branches = [branch];
  driver.rest(false);
  if (about.beside.includes(start.suite)) branch.beside = opened(await placed());
  shown(0);
  say(`${start.instruction}. Press a key, drag on the image, or press Drive.`);
}

// Begin in the simulator where the dream began.
async function placed() {
  simulator = await open(simulator, `/simulator/${start.suite}`, $("split").value);
  return simulator.ask("reset", { seed: 0, options: { task: start.task, start: about.placements[simulator.split] + start.index } });
}

function shown(frame) {
  state.shown = frame;
  $("branch").replaceChildren(...branches.map((each, place) => new Option(`${place + 1}`, place, false, each === branch)));
  draw();
}

// Return to a moment of an episode: the dream from its snapshot, the simulator by doing the same again.
async function resume(chosen, chunks, forked) {
  say("Going back …");
  branch.again = false; // what the server keeps is soon of another chunk
  branch.snapshots[branch.chunks.length] ??= saved();
  const bytes = new Uint8Array(await (await chosen.snapshots[chunks]).arrayBuffer());
  await dream.ask("restore", { states: [bytes] });
  const whole = chunks === chosen.chunks.length;
  branch = whole && !forked ? chosen : { ...copied(chosen, chunks), chunks: chosen.chunks.slice(0, chunks),
    snapshots: chosen.snapshots.slice(0, chunks + 1), beside: chosen.beside && copied(chosen.beside, chunks) };
  if (forked) branches.push(branch); else branches[branches.indexOf(chosen)] = branch;
  if (branch.beside) {
    await placed();
    for (const { actions } of branch.chunks) {
      const found = await simulator.ask("step", { actions: [actions] });
      branch.beside.done ||= found.terminated.data[0] > 0;
    }
  }
  const last = branch.chunks.at(-1)?.actions.at(-1);
  driver.rest(last?.at(-1) === about.gripper.closed);
  shown(branch.frames.length - 1);
  say(branch.done ? "This episode has ended." : `From frame ${state.shown}: press a key to drive on.`);
}

// Dream the next chunk, or `again` the newest one.
async function advance(sampled, again) {
  const actions = sampled.map(({ action }) => action), began = performance.now(), own = branch;
  const chunk = own.chunks.length - Number(again), asked = [];
  if (own.beside) {
    state.behind++;
    simulator.ask("step", { actions: [actions] }).then((found) => record(own.beside, found))
      .catch((error) => say(error.message, "wrong")).finally(() => { state.behind--; waiting(); });
  }
  asked.push(again ? dream.ask("restore", { kept: true }) : dream.ask("snapshot", { keep: true })); // where the chunk begins
  asked.push(dream.ask("step", { actions: [actions] }));
  if (!again) {
    own.snapshots[chunk] = saved({ kept: true });
    own.snapshots[chunk].catch(() => {}); // the step has failed too, and says so
  }
  const found = (await Promise.all(asked)).at(-1);
  delays = [...delays.slice(-7), performance.measure("chunk", { start: began }).duration];
  record(own, found, chunk);
  own.chunks[chunk] = { actions, sampled, reward: found.reward.data[0], uncertainty: found.info.uncertainty?.data[0] };
  own.again = true;
  if (!state.playing) draw();
}

const waiting = () => { $("views").dataset.waiting = Number(state.asked) + state.behind; };
// Milliseconds that a dream takes: as many as all but one of the last eight, since one that is late is no rule.
const longest = () => Math.max(step, [...delays].sort((one, other) => other - one)[delays.length > 3 ? 1 : 0] ?? 0);
const frames = (milliseconds) => Math.max(1, Math.ceil(milliseconds / step));
const fewer = (count) => Math.min(about.chunk - 1, count); // than a chunk has

// What is done now is for a frame that can still be changed when the dream under way has ended: so each twentieth of a
// second has its own, in order. Beside a simulator, which takes no step again, it is for the next chunk.
function listen() {
  const left = branch.frames.length - 1 - state.shown, rests = !left && !state.asked;
  if (rests) { [plan, waits] = [[], []]; state.planned = state.shown; }
  const due = state.shown + (rests ? 1 : branch.beside ? about.chunk : fewer(frames(2 * longest() - step)));
  if (left > about.chunk || state.planned >= due) return;
  const { active } = driver, sampled = { ...driver.sample(start, Number($("speed").value)), active, frame: due };
  while (state.planned < due - 1) plan[++state.planned] = kept(sampled);
  plan[state.planned = due] = sampled;
  const { sampled: made = [] } = branch.chunks.at(-1) ?? {}, place = due - branch.frames.length + made.length;
  if (String(made[place]?.action) === String(sampled.action)) made[place] = sampled; // its frame has it already
  else if (sampled.since) waits = [...waits, sampled];
}
const kept = ({ held }) => ({ action: held, held });
const wanted = (frame) => plan[frame] ?? kept(plan[state.planned]);

// Begin the next chunk so late that its frames are there in time, or dream the newest one again while there is time.
function act() {
  if (state.asked || state.busy || !state.playing || over() || !plan[state.planned]) return;
  const last = branch.frames.length - 1, left = last - state.shown, newest = branch.chunks.at(-1);
  const passed = performance.now() - state.ticked, lead = fewer(frames(passed + longest())), from = state.shown + lead;
  if (left <= lead) {
    const moves = !$("still").checked || driver.active || plan.slice(last + 1).some(({ active }) => active);
    if (moves && state.behind < 2) send(last + 1, last + 1, []);
  } else if (branch.again && !branch.beside && left <= about.chunk && left >= frames(passed + 2 * longest())) {
    const differs = ({ action }, place) => place > about.chunk - 1 - left + lead - 1
      && String(wanted(last + 1 - about.chunk + place).action) !== String(action);
    if (newest.sampled.some(differs)) send(last + 1 - about.chunk, from, newest.sampled);
  }
}

function forget() {
  branch.chunks.length--;
  branch.hands.length--;
  branch.frames.length -= about.chunk;
  branch.again = false;
  shown(Math.min(state.shown, branch.frames.length - 1));
}

// Ask for the chunk that begins at frame `first`, with new actions for the frames from `from` on.
function send(first, from, before) {
  const end = first + about.chunk;
  let free = from;
  for (const late of waits.filter(({ frame }) => frame < from)) { // its frame is made already: it takes one that is not
    while (free < end - 1 && plan[free]?.since) free++;
    const { held, since, action } = wanted(free), earliest = Math.min(late.since, since ?? late.since);
    plan[free] = { ...late, held, since: earliest, action: since ? action : late.action };
    state.planned = Math.max(state.planned, free);
  }
  waits = waits.filter(({ frame }) => frame >= end);
  const sampled = Array.from({ length: about.chunk }, (_, place) => (first + place < from ? before[place] : wanted(first + place)));
  const again = first < branch.frames.length;
  state.asked = true;
  state.pending = advance(sampled, again).catch((error) => {
    play(false);
    if (again) forget(); // the server went back to where it began
    say(error.message, "wrong");
  })
    .finally(() => { state.asked = false; waiting(); act(); });
  waiting();
}

function tick() {
  if (state.busy || !state.playing) return;
  const now = state.ticked = performance.now();
  if (state.shown < branch.frames.length - 1) {
    state.shown++;
    draw();
    ticks = [...ticks.filter((each) => each > now - 2000), now];
    answered(now);
    count("frames");
  } else if (state.asked) count("late");
  const left = branch.frames.length - 1 - state.shown;
  if (over() && left) return;
  if (over()) {
    play(false);
    say(branch.chunks.length >= most ? "This is as long as an episode can be: restart, or go back." : branch.chunks.at(-1).reward > 0
      ? "The reward model finds the task done. Go back, or restart." : "The episode has ended. Go back, or restart.", "done");
    return;
  }
  listen();
  act();
}

// Measure the inputs that the frame is the first to answer.
function answered(now) {
  const place = (state.shown - 1) % about.chunk, { sampled = [] } = branch.chunks[(state.shown - 1 - place) / about.chunk] ?? {};
  for (const each of sampled.slice(0, place + 1)) {
    if (each.since) delay = performance.measure("input to frame", { start: each.since, end: now }).duration;
    each.since = undefined;
  }
}

const count = (name) => { $("views").dataset[name] = 1 + Number($("views").dataset[name] ?? 0); };

function pace() {
  if (ticks.length < 2) return;
  const rate = 1000 * (ticks.length - 1) / (ticks.at(-1) - ticks[0]);
  $("pace").textContent = `${rate.toFixed(1)} of ${about.fps} frames/s; ${Math.round(delays.at(-1) ?? 0)} ms to dream a chunk of ${about.chunk}; `
    + `${Number.isFinite(delay) ? `${(delay / 1000).toFixed(2)} s from input to frame` : "no input yet"}`
    + `${branch?.beside?.done ? "; done in the simulator" : ""}`;
}

async function clip() {
  say("Making the clip …");
  const count = branch.frames.length, videos = {};
  for (const { label, at } of views.filter((view) => view.at(0))) {
    const data = new Uint8Array(count * size);
    for (let frame = 0; frame < count; frame++) data.set(at(frame), frame * size);
    videos[label] = { data, shape: [count, height, width, 3] };
  }
  const answer = await fetch("/clip", { method: "POST", body: pack({ videos, text: start.instruction, fps: Math.round(about.fps) }) });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const file = new File([await answer.blob()], "dream.webp", { type: "image/webp" });
  if (matchMedia("(pointer: coarse)").matches && navigator.canShare?.({ files: [file] })) await navigator.share({ files: [file] });
  else Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: file.name }).click();
  say(`Saved ${file.name}, ${(file.size / 1e6).toFixed(1)} MB.`);
}

// The splits; the instructions of a split; the starts of an instruction, by their place in the split.
function choose() {
  const starts = about.starts[$("split").value], chosen = $("task").value;
  const texts = [...new Set(starts.map(({ instruction }) => instruction))];
  $("task").replaceChildren(...texts.map((text) => new Option(text, text, false, text === chosen)));
  const places = starts.flatMap(({ instruction }, place) => (instruction === $("task").value ? [place] : []));
  $("start").replaceChildren(...places.map((place) => new Option(starts[place].index, place)));
}

$("split").replaceChildren(...Object.keys(about.starts).map((split) => new Option(split, split)));
choose();
for (const name of ["split", "task"]) $(name).addEventListener("change", () => { choose(); alone(begin); });
$("start").addEventListener("change", () => alone(begin));
$("restart").addEventListener("click", () => alone(begin));
$("play").addEventListener("click", () => { if (!state.busy && !over()) play(!state.playing); });
$("seek").addEventListener("input", () => { play(false); state.shown = Number($("seek").value); draw(); });
for (const name of ["rewind", "fork"]) {
  $(name).addEventListener("click", () => alone(() => resume(branch, Math.floor(state.shown / about.chunk), name === "fork")));
}
$("branch").addEventListener("change", () => alone(() => resume(branches[$("branch").value], branches[$("branch").value].chunks.length, false)));
$("clip").addEventListener("click", () => alone(clip));
addEventListener("keydown", (event) => { if (event.code === "Escape") play(false); });
addEventListener("pagehide", () => { dream?.close(); simulator?.close(); });

let due = 0;
(function loop(now) {
  requestAnimationFrame(loop);
  if (driver.pad().busy) driver.wake();
  if (now < due) return;
  due = Math.max(due + step, now - step);
  tick();
  if (branch && Math.round(now / step) % 5 === 0) pace();
})(0);
state.busy = false;
await alone(begin);
