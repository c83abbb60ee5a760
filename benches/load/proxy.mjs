// The least that a Node script needs to stand where the adapter stands: it translates, and bounds nothing.
import http from "node:http";

const [listen, piston] = process.argv.slice(2).map(Number);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1024 });

async function textOf(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

function ask(body) {
  return new Promise((resolve, reject) => {
    const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) };
    const options = { agent, port: piston, host: "127.0.0.1", method: "POST", path: "/api/v2/execute", headers };
    const request = http.request(options, (answer) => textOf(answer).then(resolve, reject));
    request.on("error", reject).end(body);
  });
}

async function answer(request, response) {
  const given = JSON.parse(await textOf(request));
  const { code, stdin = "", args = [] } = given.properties ?? given;
  const language = request.url.split("/")[1];
  const files = [{ name: "main.py", content: code }];
  const limits = { run_timeout: 60000, run_memory_limit: 512 << 20 };
  const { run } = JSON.parse(await ask(JSON.stringify({ language, version: "*", files, stdin, args, ...limits })));
  const fields = {
    status: run.code === 0 ? "Success" : "Failure", stdout: run.stdout, stderr: run.stderr,
    result: "", executionResult: "", exitCode: run.code, executionTimeInMilliseconds: run.wall_time, run,
  };
  const body = JSON.stringify({ $id: "1", ...fields, properties: { $id: "2", ...fields } });
  response.writeHead(200, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) }).end(body);
}

http.createServer((request, response) => {
  if (request.url === "/health") return response.end("OK\n");
  answer(request, response).catch(() => response.writeHead(502).end());
}).listen(listen, "127.0.0.1");
