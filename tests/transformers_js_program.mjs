// transformers.js on a layout: node transformers_js_program.mjs PACKAGE FOLDER DTYPE LEVEL INPUTS OUTPUTS
// PACKAGE is the folder with node_modules; INPUTS and OUTPUTS are JSON.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [package_, folder, dtype, level, inputs, outputs] = process.argv.slice(2);
const entry = createRequire(path.join(package_, "index.js")).resolve("@huggingface/transformers");
const library = await import(pathToFileURL(entry));
const { env, AutoModel, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, Tensor, pipeline } = library;
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder);
const name = path.basename(folder);
const given = JSON.parse(fs.readFileSync(inputs));
const options = { dtype, session_options: { graphOptimizationLevel: level } };

const tokenizer = await AutoTokenizer.from_pretrained(name);
const { input_ids } = tokenizer(given.captions, { padding: true, truncation: true });
const ids = new Tensor("int64", BigInt64Array.from(given.ids.flat().map(BigInt)), [given.ids.length, given.ids[0].length]);
const pixels = new Tensor("float32", Float32Array.from(given.pixels), given.shape);
const whole = await AutoModel.from_pretrained(name, options);
const both = await whole({ input_ids: ids, pixel_values: pixels });
const text = await CLIPTextModelWithProjection.from_pretrained(name, options);
const vision = await CLIPVisionModelWithProjection.from_pretrained(name, options);
const classify = await pipeline("zero-shot-image-classification", name, options);
fs.writeFileSync(outputs, JSON.stringify({
  ids: input_ids.tolist().map((row) => row.map(Number)),
  image: both.image_embeds.tolist(),
  text: both.text_embeds.tolist(),
  logits: both.logits_per_image.tolist(),
  text_alone: (await text({ input_ids: ids })).text_embeds.tolist(),
  image_alone: (await vision({ pixel_values: pixels })).image_embeds.tolist(),
  captions: (await text({ input_ids })).text_embeds.tolist(),
  scores: await classify(given.picture, given.labels, { hypothesis_template: "{}" }),
}));
