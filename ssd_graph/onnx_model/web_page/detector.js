// The network and what comes before it. Runs in a worker, so that the page stays alive meanwhile.
// Messages in: {files} once, then {picture} each; out: {version}, detections, or {error}.

import { preprocess } from "./resize.js";

const AS_STORED = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
let ort, session, gl;

addEventListener("message", async ({ data }) => {
  try {
    postMessage(await (data.files ? start(data.files) : detect(data.picture)));
  } catch (error) {
    postMessage({ error: String(error?.message || error) }); // out of memory, onnxruntime throws a number
  }
});

/** Load onnxruntime-web and the model, each a {url, integrity}. */
async function start({ runtime, wasm, model }) {
  const [code, binary, network] = await Promise.all([runtime, wasm, model].map(load));
  // As a blob it has passed the check of its hash, and runs whatever type the server calls it.
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  ort = await import(url);
  URL.revokeObjectURL(url);
  ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
  ort.env.wasm.wasmBinary = binary;
  session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  return { version: ort.env.versions.web };
}

async function load({ url, integrity }) {
  const response = await fetch(url, { integrity, mode: "cors" }).catch(() => null);
  if (!response?.ok) throw new Error(`${url} cannot be loaded, or is not the file that this page was made with`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Size, milliseconds, and `boxes` [D][4] in pixels, `scores` [D] and `labels` [D], best first, of a picture's file. */
async function detect(picture) {
  const begin = performance.now();
  const bitmap = await createImageBitmap(picture, AS_STORED).catch(() => {
    throw new Error("this browser cannot read it as a picture");
  });
  const { width, height } = bitmap;
  const readStrip = (top, count) => readRows(bitmap, top, count);
  const pixels = await preprocess(width, height, readStrip).finally(() => bitmap.close());
  const between = performance.now();
  const outputs = await session.run({ images: new ort.Tensor("uint8", pixels, [1, 300, 300, 3]) });
  const end = performance.now();
  const count = Number(outputs.num_detections.data[0]);
  const size = [width, height, width, height];
  return {
    width, height, preparing: between - begin, network: end - between,
    boxes: Array.from({ length: count }, (_, i) => size.map((side, k) => outputs.boxes.data[4 * i + k] * side)),
    scores: Array.from(outputs.scores.data.subarray(0, count)),
    labels: Array.from(outputs.labels.data.subarray(0, count), Number),
  };
}

/** RGBA bytes of some rows. */
async function readRows(bitmap, top, count) {
  const context = new OffscreenCanvas(bitmap.width, count).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, -top);
  const { data } = context.getImageData(0, 0, bitmap.width, count);
  for (let i = 3; i < data.length; i += 4) if (data[i] < 255) return readUnderAlpha(bitmap, top, count);
  return data;
}

/** The same where parts are transparent: Python drops alpha, a canvas loses colours to it, a texture keeps both. */
async function readUnderAlpha(bitmap, top, count) {
  const { width } = bitmap;
  gl ??= new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || gl.getParameter(gl.MAX_TEXTURE_SIZE) < Math.max(width, count))
    throw new Error("this browser cannot read the colours of its transparent parts");
  const part = await createImageBitmap(bitmap, 0, top, width, count, AS_STORED);
  const texture = gl.createTexture(), buffer = gl.createFramebuffer();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, part);
  part.close();
  gl.bindFramebuffer(gl.FRAMEBUFFER, buffer);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(width * count * 4);
  gl.readPixels(0, 0, width, count, gl.RGBA, gl.UNSIGNED_BYTE, data);
  gl.deleteFramebuffer(buffer);
  gl.deleteTexture(texture);
  return data;
}
