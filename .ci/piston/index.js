// The part of Piston's API that the adapter and the image's build use. It runs Python, uncontained.
const { spawn } = require('node:child_process');
const { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } = require('node:fs');
const { createServer } = require('node:http');
const { join } = require('node:path');

const PACKAGES = '/piston/packages';
const limit = name => Number(process.env[`PISTON_${name}`]);

const runtimes = () =>
  readdirSync(PACKAGES).map(name => ({
    language: name.split('-')[0],
    version: name.split('-')[1],
    aliases: ['py'],
  }));

const install = ({ language, version }) => {
  mkdirSync(`${PACKAGES}/${language}-${version}`);
  return { language, version };
};

const execute = ({ language, version, files, stdin = '', args = [], run_timeout }) => {
  if (run_timeout > limit('RUN_TIMEOUT')) {
    const message = `run_timeout cannot exceed the configured limit of ${limit('RUN_TIMEOUT')}`;
    return Promise.reject(Object.assign(new Error(message), { status: 400 }));
  }
  return new Promise(resolve => {
    const cwd = mkdtempSync('/tmp/job-');
    const names = files.map(({ name }, number) => name ?? `file${number}.code`);
    files.forEach(({ content }, number) => writeFileSync(join(cwd, names[number]), content));
    const child = spawn('python3', [names[0], ...args], { cwd });
    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr']) child[name].on('data', data => (output[name] += data));
    child.stdin.on('error', () => {});
    child.stdin.end(stdin);
    child.on('close', (code, signal) => {
      rmSync(cwd, { recursive: true });
      const status = code === 0 ? null : 'RE';
      const times = { memory: null, cpu_time: 1, wall_time: 1 };
      const all = output.stdout + output.stderr;
      const run = { ...output, output: all, code, signal, status, message: null, ...times };
      resolve({ language, version: runtimes()[0].version, run });
    });
  });
};

const routes = {
  'GET /api/v2/runtimes': runtimes,
  'POST /api/v2/packages': install,
  'POST /api/v2/execute': execute,
};

const [host, port] = process.env.PISTON_BIND_ADDRESS.split(':');
createServer(async (request, response) => {
  const route = routes[`${request.method} ${request.url}`];
  const say = (status, body) => {
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body));
  };
  if (!route) return say(404, { message: 'Not Found' });
  let body = '';
  for await (const chunk of request) body += chunk;
  try {
    say(200, await route(body ? JSON.parse(body) : undefined));
  } catch (error) {
    say(error.status ?? 500, { message: error.message });
  }
}).listen(port, host);
