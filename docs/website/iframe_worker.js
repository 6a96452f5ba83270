// Search when a page is opened as a file: browsers start no worker from there, so its script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const waiting = []
      this.post = data => waiting.push(data)
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      const tell = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inside.postMessage = data => setTimeout(tell, 0, data)
      inside.importScripts = (...names) => Promise.all(names.map(name => this.load(inside, new URL(name, url))))
      this.load(inside, url).then(() => {
        this.post = data => inside.dispatchEvent(new MessageEvent("message", { data }))
        waiting.forEach(this.post)
      })
    }
    load(inside, url) {
      return new Promise((done, failed) => {
        const script = inside.document.createElement("script")
        script.src = url
        script.onload = done
        script.onerror = () => failed(new Error(`${url} could not be loaded`))
        inside.document.head.append(script)
      })
    }
    postMessage(data) { setTimeout(() => this.post(data), 0) }
    terminate() {}
  }
}
