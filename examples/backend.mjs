// The back end of backend.py for Node 18 or newer, without packages: SESSION_POOL=… node backend.mjs
// A pool's token is taken from SESSION_TOKEN; @azure/identity gets one that is renewed.
import { createServer } from "node:http";

const pool = (process.env.SESSION_POOL ?? "http://localhost:2000").replace(/\/+$/, "");
const token = process.env.SESSION_TOKEN;

// The ten lines: Piston's body in, the pool's answer out.
async function execute({ language, files, stdin = "", args = [] }, identifier) {
  const code = files[0].content;
  const properties = { codeInputType: "inline", executionType: "synchronous", code, stdin, args };
  const query = new URLSearchParams({ identifier });
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const body = JSON.stringify({ properties });
  const url = `${pool}/${encodeURIComponent(language)}/execute?${query}`;
  const signal = AbortSignal.timeout(240_000);
  const answer = await fetch(url, { method: "POST", headers, body, signal });
  return { status: answer.status, body: await answer.json() };
}

createServer(async (request, response) => {
  const answer = (status, body) =>
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
  if (request.method !== "POST" || request.url !== "/api/v2/execute")
    return answer(404, { message: "POST /api/v2/execute" });
  let asked;
  try {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    asked = JSON.parse(Buffer.concat(chunks).toString());
    const needed = [asked.language, asked.files[0].content];
    if (!needed.every((value) => typeof value === "string")) throw new TypeError();
  } catch {
    return answer(400, { message: "language and files[0].content are needed" });
  }
  try {
    const ran = await execute(asked, request.headers["x-session"] ?? "demo-1");
    if (ran.status === 200) answer(200, { run: ran.body.run });
    else answer(ran.status, { message: ran.body.error.message });
  } catch {
    answer(502, { message: "the session pool does not answer as it should" });
  }
}).listen(process.env.PORT ?? 8000, "127.0.0.1");
