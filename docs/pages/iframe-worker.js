// The site's search runs in a worker, which browsers refuse to a page that is opened from disk.
// There a hidden frame takes its place: mkdocs-material looks for this name.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      frame.srcdoc = "<!doctype html><title>search</title>";
      this.inside = new Promise((resolve) => {
        frame.onload = () => {
          const inside = frame.contentWindow;
          const load = (from) => new Promise((done, failed) => {
            const script = inside.document.createElement("script");
            Object.assign(script, {src: from, onload: done, onerror: failed});
            inside.document.head.append(script);
          });
          inside.importScripts = (...urls) =>
            urls.reduce((before, next) => before.then(() => load(next)), Promise.resolve());
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", {data}));
          load(url).then(() => resolve(inside));
        };
      });
      document.documentElement.append(frame);
    }

    async postMessage(data) {
      const inside = await this.inside;
      inside.dispatchEvent(new inside.MessageEvent("message", {data}));
    }
  };
  window.Worker = window.IFrameWorker;
}
