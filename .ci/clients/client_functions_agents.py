"""azurefunctions-agents-runtime: the tool `execute_python` (2025-10-02-preview)."""

import importlib.util
import json
import sys
import types
import uuid

import aiohttp
from checks import *
from copilot.tools import ToolInvocation

# The whole package starts a language model's client, of 60 MB; the tool needs none of it.
package = types.ModuleType("azure_functions_agents")
package.__path__ = importlib.util.find_spec("azure_functions_agents").submodule_search_locations
sys.modules[package.__name__] = package
from azure_functions_agents import sandbox

check = Checks("azurefunctions-agents-runtime")


async def access_token():
    return token()


async def execute(*cells, session=None):
    """What the tool returns for the last of these cells of one conversation."""
    session = session or str(uuid.uuid4())
    # What it makes by itself asks Azure for a token.
    sandbox._token_provider = access_token
    async with aiohttp.ClientSession() as sandbox._http_session:
        (tool,) = sandbox.create_sandbox_tools({"session_pool_management_endpoint": URL})
        for code in cells:
            invocation = ToolInvocation(
                session_id=session, tool_call_id="1", tool_name=tool.name, arguments={"code": code}
            )
            seen = await tool.handler(invocation)
            equal(seen.result_type, "success")
    return json.loads(seen.text_result_for_llm)


@check("print and value")
async def _():
    equal(await execute("print('hello')\n6 * 7"), {"result": 42, "stdout": "hello\n", "stderr": ""})


@check("defined in one call, awaited in the next")
async def _():
    define = "import asyncio\nasync def double(x):\n    await asyncio.sleep(0)\n    return 2 * x"
    equal((await execute(define, "await double(21)"))["result"], 42)


@check("its own helper is there")
async def _():
    equal((await execute("callable(launch_browser)"))["result"], True)


@check("exception")
async def _():
    seen = await execute("x = 1", FAILING, "x")
    equal((seen["result"], seen["stderr"]), (1, ""))
    contains((await execute(FAILING))["stderr"], "Traceback (most recent call last)", "ZeroDivisionError")
