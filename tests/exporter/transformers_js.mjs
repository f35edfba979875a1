// Loads a layout with transformers.js: ids, embeddings on given pixels, and the zero-shot pipeline, as JSON.
// node transformers_js.mjs FOLDER_OF_LAYOUTS NAME INPUT.json OUTPUT.json
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

const library = await import(pathToFileURL(process.env.TRANSFORMERS_JS));
const { env, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, Tensor, pipeline } = library;

const [root, name, input, output] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = root;
const given = JSON.parse(fs.readFileSync(input));
const options = { dtype: given.dtype };
const tokenizer = await AutoTokenizer.from_pretrained(name);
const text = await CLIPTextModelWithProjection.from_pretrained(name, options);
const vision = await CLIPVisionModelWithProjection.from_pretrained(name, options);
const tokens = await tokenizer(given.texts, { padding: true, truncation: true });
const { text_embeds } = await text(tokens);
const pixel_values = new Tensor('float32', Float32Array.from(given.pixels), given.shape);
const { image_embeds } = await vision({ pixel_values });
const classify = await pipeline('zero-shot-image-classification', name, options);
const scores = await classify(given.picture, given.labels);
const ids = tokens.input_ids.tolist().map((row) => row.map(Number));
const found = { ids, texts: text_embeds.tolist(), images: image_embeds.tolist(), scores };
fs.writeFileSync(output, JSON.stringify(found));
