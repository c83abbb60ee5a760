// piston-client: Piston's API through the adapter, and on the engine itself. It says
// `text/plain;charset=UTF-8` of its JSON.
import { spawn } from "node:child_process";
import piston from "piston-client";
import { begunProgram, check, contains, end, ENDLESS, env, equal, FAILING, UNICODE, untilBegun } from "./checks.mjs";

for (const [where, server, oneAtATime] of [
  ["adapter", env.ADAPTER_URL, env.ONE_AT_A_TIME_URL],
  ["engine", env.ENGINE_URL, env.ONE_AT_A_TIME_ENGINE_URL],
]) {
  const client = piston({ server });
  const name = `piston-client, ${where}`;

  await check(name, "runtimes", async () => {
    const languages = (await client.runtimes()).map((runtime) => runtime.language);
    contains(languages, "python", "bash");
  });

  await check(name, "print", async () => {
    const seen = await client.execute("python", "print('hello')");
    equal([seen.language, seen.run?.stdout, seen.run?.code], ["python", "hello\n", 0]);
  });

  await check(name, "exception", async () => {
    const seen = await client.execute("python", FAILING);
    equal(seen.run?.code, 1);
    contains(seen.run.output, "Traceback (most recent call last)", "ZeroDivisionError");
  });

  await check(name, "Unicode", async () => {
    const seen = await client.execute("python", `print(${JSON.stringify(UNICODE)})`);
    equal(seen.run?.stdout, `${UNICODE}\n`);
  });

  await check(name, "stdin, arguments, several files", async () => {
    const seen = await client.execute({
      language: "python",
      files: [
        { name: "main.py", content: "import sys, beside\nprint(input(), sys.argv[1:], beside.x)" },
        { name: "beside.py", content: "x = 7" },
      ],
      stdin: UNICODE,
      args: ["a b", "ü"],
    });
    equal(seen.run?.output, `${UNICODE} ['a b', 'ü'] 7\n`);
  });

  await check(name, "a compile error", async () => {
    const seen = await client.execute("c++", "int main() { return x; }");
    contains(seen.compile?.output, "not declared");
  });

  await check(name, "what it gets wrong", async () => {
    const seen = await client.execute("klingon", "nuqneH", { version: "1.0.0" });
    contains(seen.message, "klingon");
  });

  await check(name, "an endless program", async () => {
    const seen = await client.execute("python", ENDLESS, { runTimeout: 1000 });
    equal(seen.run?.signal, "SIGKILL");
    equal((await client.execute("python", "print(1)")).run?.output, "1\n");
  });

  await check(name, "hanging up and coming back", async () => {
    const mark = `piston-client-${where}`;
    const program = `
      import piston from "piston-client";
      await piston({ server: ${JSON.stringify(oneAtATime)} })
        .execute("python", ${JSON.stringify(begunProgram(mark))}, { runTimeout: 100000 });`;
    const other = spawn(process.execPath, ["--input-type=module", "-e", program], {
      cwd: import.meta.dirname,
    });
    try {
      await untilBegun(mark);
    } finally {
      other.kill("SIGKILL");
    }
    equal((await piston({ server: oneAtATime }).execute("python", "print(1)")).run?.output, "1\n");
  });
}

end();
