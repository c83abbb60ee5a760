// What every client is asked for, and how it is told; the counterpart of checks.py.
import { existsSync } from "node:fs";

export const UNICODE = "Grüße, 世界 🐍 e\u0301";
export const UNICODE_NAME = "Grüße 世界 🐍 e\u0301.bin";
export const ENDLESS = "while True:\n    pass";
export const FAILING = "def inner():\n    return 1 / 0\n\ninner()";
export const env = process.env;

// Clients tell what they do.
const print = console.log.bind(console);
console.log = () => {};
console.error = () => {};

let failed = 0;

export async function check(client, name, run) {
  try {
    await run();
    print(`ok      ${client.padEnd(24)} ${name}`);
  } catch (error) {
    failed += 1;
    const why = String(error?.message ?? error).replaceAll("\n", "\\n").slice(0, 600);
    print(`FAILED  ${client.padEnd(24)} ${name}: ${why}`);
  }
}

// An exit, as some clients keep the process alive.
export const end = () => process.exit(failed ? 1 : 0);

export function equal(seen, expected) {
  const [left, right] = [JSON.stringify(seen), JSON.stringify(expected)];
  if (left !== right) throw new Error(`${left?.slice(0, 250)} instead of ${right?.slice(0, 250)}`);
}

export function contains(text, ...parts) {
  for (const part of parts) {
    if (!text?.includes?.(part)) {
      throw new Error(`${part} is not in ${JSON.stringify(text)?.slice(0, 400)}`);
    }
  }
}

// A program that is endless, and leaves a file once it has begun.
export const begunProgram = (name) => `open('/mnt/data/${name}', 'w').close()\n${ENDLESS}`;

export async function untilBegun(name) {
  for (let tries = 0; tries < 3000; tries += 1) {
    if (existsSync(`${env.ONE_AT_A_TIME_DATA}/${name}`)) return;
    await new Promise((done) => setTimeout(done, 20));
  }
  throw new Error("the program did not begin within a minute");
}
