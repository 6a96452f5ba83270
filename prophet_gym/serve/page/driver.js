// What keyboard, pointer and gamepad ask for, as actions of the robot.
const KEYS = {
  KeyW: "away", ArrowUp: "away", KeyS: "near", ArrowDown: "near", KeyA: "left", ArrowLeft: "left", KeyD: "right",
  ArrowRight: "right", KeyR: "up", PageUp: "up", KeyF: "down", PageDown: "down", KeyQ: "yaw-", KeyE: "yaw+",
  KeyT: "pitch+", KeyG: "pitch-", KeyC: "roll-", KeyV: "roll+",
};
const TURNS = { roll: 3, pitch: 4, yaw: 5 };
const TURN = 0.5, REACH = 70; // speed of turns, whose full one is hard to follow; pixels of a drag that are full speed

export class Driver {
  constructor(about, views, wake) {
    Object.assign(this, { about, wake, held: new Set(), taps: new Set(), drag: { right: 0, away: 0, up: 0 }, closed: false, wheel: 0 });
    addEventListener("keydown", (event) => this.key(event, true));
    addEventListener("keyup", (event) => this.key(event, false));
    addEventListener("blur", () => this.held.clear());
    document.querySelectorAll("[data-command]").forEach((button) => {
      const { command } = button.dataset;
      button.addEventListener("pointerdown", (event) => { if (!event.button) this.hold(command, true); });
      for (const name of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(name, () => this.hold(command, false));
      // A click without a pointer: by a key, voice control or a screen reader.
      button.addEventListener("click", (event) => { if (!event.detail) this.tap(command); });
      button.addEventListener("contextmenu", (event) => event.preventDefault());
    });
    document.querySelector("#gripper").addEventListener("click", () => this.grip());
    views.addEventListener("pointerdown", (event) => event.target.closest("canvas")?.setPointerCapture((this.from = event).pointerId));
    views.addEventListener("pointermove", (event) => this.from?.pointerId === event.pointerId && this.pull(event));
    views.addEventListener("lostpointercapture", () => { this.from = null; this.drag = { right: 0, away: 0, up: 0 }; });
    views.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.wheel = -Math.sign(event.deltaY) * 3; // steps
      this.changed();
    }, { passive: false });
  }

  get active() {
    return this.held.size + this.taps.size > 0 || this.wheel !== 0 || Object.values(this.drag).some(Boolean) || this.gripped || this.pad().busy;
  }

  key(event, on) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select")) return;
    const grips = event.code === "Space" && !event.target.closest?.("button, summary");
    if (!grips && !KEYS[event.code]) return;
    event.preventDefault();
    if (event.repeat) return;
    if (!grips) this.hold(KEYS[event.code], on); else if (on) this.grip();
  }

  hold(command, on) {
    if (on) { this.held.add(command); this.tap(command); } else this.held.delete(command);
    document.querySelector(`[data-command="${command}"]`)?.classList.toggle("on", on);
  }

  // What is pressed for less than a step still counts for one.
  tap(command) { this.taps.add(command); this.changed(); }

  grip() {
    this.rest(!this.closed);
    this.gripped = true;
    this.changed();
  }

  // Nothing is asked for, with the gripper as it is.
  rest(closed) {
    this.closed = closed;
    this.gripped = this.since = undefined;
    document.querySelector("#gripper").setAttribute("aria-pressed", closed);
  }

  changed() { this.since ??= performance.now(); this.wake(); }

  pull(event) {
    const part = (pixels) => Math.max(-1, Math.min(1, Math.abs(pixels) < 5 ? 0 : pixels / REACH));
    const away = part(this.from.clientY - event.clientY);
    this.drag = event.shiftKey ? { right: 0, away: 0, up: away } : { right: part(event.clientX - this.from.clientX), away, up: 0 };
    this.changed();
  }

  pad() {
    const pad = navigator.getGamepads?.().find(Boolean), at = (axis) => (Math.abs(pad.axes[axis] ?? 0) > 0.15 ? pad.axes[axis] : 0);
    if (!pad) return { right: 0, away: 0, up: 0, yaw: 0, busy: false };
    const found = { right: at(0), away: -at(1), yaw: at(2), up: -at(3) }, pressed = pad.buttons[0]?.pressed;
    if (pressed && !this.pressed) this.grip();
    this.pressed = pressed;
    return { ...found, busy: pressed || Object.values(found).some(Boolean) };
  }

  // Return { action, held, since }: the action of this twentieth of a second, the one without what was pressed for less
  // than that, and when the input began that it answers first.
  sample(start, speed) {
    const pad = this.pad(), action = this.action(start, speed, pad, this.taps, Math.sign(this.wheel)), { since } = this;
    this.wheel -= Math.sign(this.wheel);
    this.taps.clear();
    this.gripped = this.since = undefined;
    return { action, held: this.action(start, speed, pad, this.taps, 0), since };
  }

  action(start, speed, pad, taps, wheel) {
    const on = (name) => Number(this.held.has(name) || taps.has(name)), { low, high, rest, gripper } = this.about;
    const right = on("right") - on("left") + this.drag.right + pad.right, away = on("away") - on("near") + this.drag.away + pad.away;
    const move = Array(high.length - 1).fill(0);
    for (const axis of [0, 1]) move[axis] = right * start.right[axis] + away * start.away[axis];
    move[2] = on("up") - on("down") + this.drag.up + pad.up + wheel;
    for (const [name, axis] of Object.entries(TURNS)) move[axis] = TURN * (on(`${name}+`) - on(`${name}-`) + (name === "yaw" ? pad.yaw : 0));
    const action = rest.map((value, axis) => {
      const part = speed * Math.max(-1, Math.min(1, move[axis] ?? 0));
      return value + part * (part > 0 ? high[axis] - value : value - low[axis]);
    });
    action[action.length - 1] = this.closed ? gripper.closed : gripper.open;
    return action;
  }
}
