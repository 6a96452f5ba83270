// The server's messages: JSON whose arrays are the tensors of one safetensors body, as in prophet_gym/serve/_messages.py.
const KINDS = { F32: Float32Array, F64: Float64Array, U8: Uint8Array, BOOL: Uint8Array, I32: Int32Array, I64: BigInt64Array };
const map = (object, change) => Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));

export function unpack(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const array = (name) => {
    const { dtype, shape, data_offsets: [from, to] } = header[name];
    const data = new KINDS[dtype](buffer.slice(8 + length + from, 8 + length + to)); // a copy, which is aligned
    return { data: dtype === "I64" ? Array.from(data, Number) : data, shape };
  };
  const read = (value) => {
    if (Array.isArray(value)) return value.map(read);
    if (value === null || typeof value !== "object") return value;
    if ("$array" in value) return array(value.$array);
    if ("$bytes" in value) return array(value.$bytes).data;
    return "$objects" in value ? value.$objects.map(read) : map(value, read);
  };
  return read(JSON.parse(header.__metadata__.message));
}

// Bytes are Uint8Arrays, arrays of numbers from 0 to 255 are { data: Uint8Array, shape }, other numbers nested lists.
export function pack(message) {
  const arrays = [];
  const kept = (data, shape) => String(arrays.push({ data, shape }) - 1);
  const written = (value) => {
    if (value instanceof Uint8Array) return { $bytes: kept(value, [value.length]) };
    if (value?.data instanceof Uint8Array) return { $array: kept(value.data, value.shape) };
    if (Array.isArray(value)) return value.map(written);
    return value && typeof value === "object" ? map(value, written) : value;
  };
  const header = { __metadata__: { message: JSON.stringify(written(message)) } };
  let end = 0;
  arrays.forEach(({ data, shape }, name) => { header[name] = { dtype: "U8", shape, data_offsets: [end, end += data.length] }; });
  const text = new TextEncoder().encode(JSON.stringify(header));
  const body = new Uint8Array(8 + text.length + end);
  new DataView(body.buffer).setBigUint64(0, BigInt(text.length), true);
  body.set(text, 8);
  arrays.reduce((at, { data }) => (body.set(data, at), at + data.length), 8 + text.length);
  return body;
}

const GONE = "The server is gone. Start prophet play again, and load this page again.";

// One session over one WebSocket, which answers in the order in which it is asked.
export class Channel {
  constructor(path) {
    this.waiting = [];
    this.socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}${path}`);
    this.socket.binaryType = "arraybuffer";
    this.open = new Promise((done, fail) => {
      this.socket.onopen = done;
      this.socket.onclose = () => {
        [{ fail }, ...this.waiting.splice(0)].forEach((each) => each.fail(new Error(GONE)));
      };
    });
    this.open.catch(() => {});
    this.socket.onmessage = ({ data }) => {
      const answer = unpack(data), { done, fail } = this.waiting.shift();
      if (answer.error) fail(new Error(answer.error.message)); else done(answer);
    };
  }

  get usable() { return this.socket.readyState === WebSocket.OPEN; }

  async ask(act, message = {}) {
    await this.open;
    if (!this.usable) throw new Error(GONE);
    this.socket.send(pack({ act, session: this.session ?? "", ...message }));
    const answer = await new Promise((done, fail) => this.waiting.push({ done, fail }));
    if (act === "create") this.session = answer.session;
    return answer;
  }

  // What is sent before the page goes is still delivered.
  close() {
    if (this.usable) this.ask("close").catch(() => {});
  }
}
