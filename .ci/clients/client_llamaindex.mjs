// @llamaindex/azure: AzureDynamicSessionTool (python/execute, 2024-02-02-preview).
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { AzureDynamicSessionTool } from "@llamaindex/azure";
import { begunProgram, check as named, contains, end, ENDLESS, env, equal, FAILING, UNICODE, UNICODE_NAME, untilBegun } from "./checks.mjs";

const check = (name, run) => named("@llamaindex/azure", name, run);
const newTool = (poolManagementEndpoint) =>
  new AzureDynamicSessionTool({ poolManagementEndpoint, azureADTokenProvider: async () => "token" });
const tool = newTool(env.ADAPTER_URL);
const run = (code) => tool.call({ code });
const bytes = Buffer.concat([
  ...Array(1000).fill(Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))),
  Buffer.from("\r\n--boundary--\r\n\0\n\r"),
]);
const digest = createHash("sha256").update(bytes).digest("hex");

await check("print", async () => {
  const { stdout, stderr, result, status } = await run("print('hello')");
  equal([status, stdout, stderr, result], ["Success", "hello\n", "", ""]);
});

await check("exception", async () => {
  const seen = await run(FAILING);
  equal(seen.status, "Failure");
  contains(seen.stderr, "Traceback (most recent call last)", "ZeroDivisionError");
});

await check("value", async () => {
  equal((await run("6 * 7")).result, 42);
  equal((await run("None")).result, "");
  equal((await run("{'a': [1, 'b']}")).stderr, "");
});

await check("Unicode", async () => {
  const seen = await run(`print(${JSON.stringify(UNICODE)})\n${JSON.stringify(UNICODE)}`);
  equal([seen.stdout, seen.result], [`${UNICODE}\n`, UNICODE]);
});

await check("upload, list, download", async () => {
  for (const name of ["llamaindex.bin", UNICODE_NAME, '100% "quoted".bin']) {
    const seen = await tool.uploadFile({ data: new Blob([bytes]), remoteFilename: name });
    equal([seen.filename, seen.size], [name, bytes.length]);
    contains((await tool.listFiles()).map((file) => file.filename), name);
    // It puts the name into the URL as it is.
    if (!name.includes("%")) {
      const back = await new Response(await tool.downloadFile({ remoteFilename: name })).arrayBuffer();
      equal(Buffer.from(back).equals(bytes), true);
    }
    const program = `import hashlib\nprint(hashlib.sha256(open(${JSON.stringify(`/mnt/data/${name}`)}, 'rb').read()).hexdigest())`;
    equal((await run(program)).stdout, `${digest}\n`);
  }
});

await check("an endless program", async () => {
  const seen = await run(`print('begun', flush=True)\n${ENDLESS}`);
  equal([seen.status, seen.stdout], ["Failure", "begun\n"]);
  contains(seen.stderr, "Time limit exceeded");
  equal((await run("1 + 1")).result, 2);
});

await check("hanging up and coming back", async () => {
  const program = `
    import { AzureDynamicSessionTool } from "@llamaindex/azure";
    await new AzureDynamicSessionTool({
      poolManagementEndpoint: ${JSON.stringify(env.ONE_AT_A_TIME_URL)},
      azureADTokenProvider: async () => "token",
    }).call({ code: ${JSON.stringify(begunProgram("llamaindex-azure"))} });`;
  const other = spawn(process.execPath, ["--input-type=module", "-e", program], {
    cwd: import.meta.dirname,
  });
  try {
    await untilBegun("llamaindex-azure");
  } finally {
    other.kill("SIGKILL");
  }
  equal((await newTool(env.ONE_AT_A_TIME_URL).call({ code: "1 + 1" })).result, 2);
});

end();
