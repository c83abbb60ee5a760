"""Checks deploy/session-pool.* and deploy/create-pool.sh.

The ARM template is filled in with values and checked against the models of Azure's SDK for the same
api-version: names, types, required and read-only fields, enumerations. Bicep's own compiler is in
no package registry, so the Bicep file is parsed with pycep, filled in with the same values, and
must give the same. So must the calls that the script makes, which a stand-in for `az` writes down.
"""

import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml
from azure.mgmt.appcontainers import models
from azure.mgmt.appcontainers._configuration import ContainerAppsAPIClientConfiguration
from pycep import BicepParser

DEPLOY = pathlib.Path(__file__).resolve().parent.parent / "deploy"
POOL = "Microsoft.App/sessionPools"
# Stated in the models' documentation, in words only.
PROBE_BOUNDS = {
    "failureThreshold": (1, 10),
    "initialDelaySeconds": (1, 60),
    "periodSeconds": (1, 240),
    "successThreshold": (1, 1),
    "timeoutSeconds": (1, 240),
}


def call(name, arguments):
    """What both languages' functions give; what only Azure knows stays a description of it."""
    match name, arguments:
        case ("resourceGroup", []):
            return {"location": "the group's location"}
        case ("json", [text]):
            return json.loads(text)
        case ("string", [value]):
            return str(value)
        case ("empty", [value]):
            return not value
        case ("not", [value]):
            return not value
        case ("resourceId", [kind, resource]):
            return f"id({kind}/{resource})"
        case ("subscriptionResourceId", [kind, resource]):
            return f"subscription id({kind}/{resource})"
        case ("reference", [resource, _]):
            return Reference(resource)
        case ("guid", [*parts]):
            return f"guid({', '.join(parts)})"
    raise ValueError(f"{name} with {len(arguments)} arguments is not known here")


class Reference:
    """What Azure says of a resource."""

    def __init__(self, resource):
        self.resource = resource

    def __getitem__(self, name):
        return f"{self.resource}.{name}"


class Arm:
    """An ARM template, filled in."""

    def __init__(self, path):
        self.template = json.loads(path.read_text())

    def parameters(self):
        return {
            name: {
                "type": found["type"],
                "default": self.value(found.get("defaultValue"), {}),
                "min": found.get("minValue", found.get("minLength")),
                "max": found.get("maxValue", found.get("maxLength")),
                "allowed": found.get("allowedValues"),
                "description": found["metadata"]["description"],
            }
            for name, found in self.template["parameters"].items()
        }

    def filled(self, values):
        resources = {}
        for resource in self.template["resources"]:
            resource = self.value(resource, values)
            # Bicep finds out by itself what depends on what.
            resource.pop("dependsOn", None)
            if resource.pop("condition", True):
                resources[f"{resource.pop('type')}@{resource.pop('apiVersion')}"] = resource
        outputs = {
            name: self.value(output["value"], values)
            for name, output in self.template["outputs"].items()
        }
        return {"resources": resources, "outputs": outputs}

    def value(self, node, values):
        if isinstance(node, dict):
            return {self.value(k, values): self.value(v, values) for k, v in node.items()}
        if isinstance(node, list):
            return [self.value(item, values) for item in node]
        if isinstance(node, str) and node.startswith("["):
            tokens = re.findall(r"'[^']*'|\w+|[().,]", node[1:-1])
            value = self.expression(tokens, values)
            if tokens:
                raise ValueError(f"{node}: {tokens} is left")
            return value
        return node

    def expression(self, tokens, values):
        token = tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1]
        if tokens.pop(0) != "(":
            raise ValueError(f"{token} is not called")
        arguments = []
        while tokens[0] != ")":
            arguments.append(self.expression(tokens, values))
            if tokens[0] == ",":
                tokens.pop(0)
        tokens.pop(0)
        if token == "parameters":
            value = values[arguments[0]]
        elif token == "variables":
            value = self.template["variables"][arguments[0]]
        else:
            value = call(token, arguments)
        while tokens and tokens[0] == ".":
            tokens.pop(0)
            value = value[tokens.pop(0)]
        return value


class Bicep:
    """A Bicep file, filled in. Pycep tells names and strings apart by nothing but what is declared."""

    FUNCTIONS = {
        "resource_group": "resourceGroup",
        "subscription_resource_id": "subscriptionResourceId",
    }

    def __init__(self, path):
        self.file = BicepParser().parse(text=path.read_text())

    def parameters(self):
        described = {}
        for name, found in self.file["parameters"].items():
            decorators = {d["type"]: d["argument"] for d in found["decorators"]}
            described[name] = {
                "type": found["type"],
                "default": self.value(found["default"], {}),
                "min": decorators.get("min_value", decorators.get("min_length")),
                "max": decorators.get("max_value", decorators.get("max_length")),
                "allowed": decorators.get("allowed"),
                "description": decorators["description"],
            }
        return described

    def filled(self, values):
        resources = {}
        for resource in self.file["resources"].values():
            config = resource["config"]
            if "condition" in config:
                if not self.value(config["condition"], values):
                    continue
                config = config["config"]
            name = f"{resource['type']}@{resource['api_version']}"
            resources[name] = self.value(config, values)
        outputs = {
            name: self.value(output["value"], values)
            for name, output in self.file["outputs"].items()
        }
        return {"resources": resources, "outputs": outputs}

    def value(self, node, values):
        match node:
            case {"function": {"type": name, "parameters": arguments}}:
                given = [self.value(a, values) for a in arguments.values() if a is not None]
                return call(self.FUNCTIONS.get(name, name), given)
            case {"operator": {"type": "not", "operands": {"bool_value": operand}}}:
                return call("not", [self.value(operand, values)])
            case {"operator": {"type": "property_accessor", "operands": operands}}:
                return self.property(operands["operand_1"], operands["operand_2"], values)
            case dict():
                # A plain key is a field's name, whatever is declared under the same name.
                keys = {k: self.value(k, values) if k.startswith("'") else k for k in node}
                return {keys[k]: self.value(v, values) for k, v in node.items()}
            case list():
                return [self.value(item, values) for item in node]
            case str() if node.startswith("'"):
                return re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], node[1:-1])
            case str() if node in values:
                return values[node]
            case str() if node in self.file["variables"]:
                return self.file["variables"][node]["value"]
            case str() if node in self.file["resources"]:
                return self.id(node, values)
        return node

    def property(self, of, path, values):
        names = []
        while isinstance(path, dict):
            operands = path["operator"]["operands"]
            names.append(operands["operand_1"])
            path = operands["operand_2"]
        names.append(path)
        if isinstance(of, str) and of in self.file["resources"]:
            if names == ["id"]:
                return self.id(of, values)
            # A template's `reference` gives what stands under `properties`.
            value = Reference(self.id(of, values))
            names = names[1:]
        else:
            value = self.value(of, values)
        for name in names:
            value = value[name]
        return value

    def id(self, resource, values):
        found = self.file["resources"][resource]
        return f"id({found['type']}/{self.value(found['config']['name'], values)})"


def check_against_model(value, model, at):
    """Whether a request's body is one that the SDK's model describes."""
    problems = []
    described = {}
    for name, field in model._attribute_map.items():
        if not model._validation.get(name, {}).get("readonly"):
            described[field["key"]] = (name, field["type"])
    # Fields under `properties` are the model's own, with the path as their name.
    below = {key.split(".")[0] for key in described if "." in key}
    given = {}
    for key, found in value.items():
        given |= {f"{key}.{k}": v for k, v in found.items()} if key in below else {key: found}
    for name, rules in model._validation.items():
        key = model._attribute_map[name]["key"]
        if rules.get("required") and key not in given:
            problems.append(f"{at}.{key} is missing")
    for key, found in given.items():
        if key not in described:
            problems.append(f"{at}.{key} is not known, or read-only")
            continue
        name, kind = described[key]
        annotation = str(inspect.signature(model.__init__).parameters[name].annotation)
        problems += check_kind(found, kind, annotation, f"{at}.{key}")
    return problems


def check_kind(value, kind, annotation, at):
    plain = {"str": str, "int": int, "float": (int, float), "bool": bool}
    if kind.startswith("["):
        if not isinstance(value, list):
            return [f"{at} is no list"]
        return [
            problem
            for index, item in enumerate(value)
            for problem in check_kind(item, kind[1:-1], "", f"{at}[{index}]")
        ]
    if kind.startswith("{"):
        return [
            problem
            for key, item in value.items()
            for problem in check_kind(item, kind[1:-1], "", f"{at}[{key}]")
        ]
    if kind in plain:
        if not isinstance(value, plain[kind]):
            return [f"{at} is {value!r}, no {kind}"]
        for name in re.findall(r"_models\.(\w+)", annotation):
            known = [item.value for item in getattr(models, name)]
            if value not in known:
                return [f"{at} is {value!r}, none of {', '.join(known)}"]
        return []
    return check_against_model(value, getattr(models, kind), at)


def check_probes(probes):
    return [
        f"probe {probe['type']}: {field} is {probe[field]}, not {low} to {high}"
        for probe in probes
        for field, (low, high) in PROBE_BOUNDS.items()
        if not low <= probe.get(field, low) <= high
    ]


def calls_of_the_script(values):
    """The calls of `az` that create-pool.sh makes."""
    with tempfile.TemporaryDirectory() as folder:
        az = pathlib.Path(folder, "az")
        az.write_text(
            f"#!{sys.executable}\n"
            "import json, sys\n"
            f"print(json.dumps(sys.argv[1:]), file=open({folder + '/calls'!r}, 'a'))\n"
            "print('answer to', *sys.argv[sys.argv.index('--query') + 1:][:1]"
            " if '--query' in sys.argv else [])\n"
        )
        az.chmod(0o755)
        environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "RESOURCE_GROUP": "group",
            "ENVIRONMENT": values["environmentId"],
            "REGISTRY": values["registryServer"],
            "IMAGE": values["image"],
            "IDENTITY_ID": values["identityId"],
            "CALLER_ID": values["callerId"],
        }
        made = subprocess.run(
            [DEPLOY / "create-pool.sh"], env=environment, capture_output=True, text=True, check=True
        )
        if made.stdout.splitlines()[-1] != "answer to properties.poolManagementEndpoint":
            raise ValueError(f"create-pool.sh prints {made.stdout!r}")
        return [json.loads(line) for line in pathlib.Path(folder, "calls").read_text().splitlines()]


def pool_of_call(arguments):
    """The body that `az containerapp sessionpool create` sends for these arguments."""
    if arguments[:3] != ["containerapp", "sessionpool", "create"]:
        raise ValueError(f"az {' '.join(arguments)}")
    options, name = {}, None
    for argument in arguments[3:]:
        if argument.startswith("--"):
            name = argument
            options[name] = []
        else:
            options[name].append(argument)

    def take(option):
        [value] = options.pop(option)
        return value

    identity = take("--registry-identity")
    body = {
        "name": take("--name"),
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}},
        "properties": {
            "environmentId": take("--environment"),
            "containerType": take("--container-type"),
            "poolManagementType": "Dynamic",
            "scaleConfiguration": {
                "maxConcurrentSessions": int(take("--max-sessions")),
                "readySessionInstances": int(take("--ready-sessions")),
            },
            "dynamicPoolConfiguration": {
                "lifecycleConfiguration": {
                    "lifecycleType": take("--lifecycle-type"),
                    "cooldownPeriodInSeconds": int(take("--cooldown-period")),
                }
            },
            "sessionNetworkConfiguration": {"status": take("--network-status")},
            "customContainerTemplate": {
                "registryCredentials": {"server": take("--registry-server"), "identity": identity},
                "ingress": {"targetPort": int(take("--target-port"))},
                "containers": [
                    {
                        "name": take("--container-name"),
                        "image": take("--image"),
                        "resources": {"cpu": float(take("--cpu")), "memory": take("--memory")},
                        "env": [
                            dict(zip(("name", "value"), pair.split("=", 1), strict=True))
                            for pair in options.pop("--env-vars")
                        ],
                        "probes": yaml.safe_load(pathlib.Path(take("--probe-yaml")).read_text())[
                            "probes"
                        ],
                    }
                ],
            },
        },
    }
    if set(options) != {"--resource-group", "--output"}:
        raise ValueError(f"options that are not known here: {options}")
    return body


def differences(left, right, at=""):
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            found
            for key in left.keys() | right.keys()
            for found in differences(left.get(key), right.get(key), f"{at}.{key}")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            found
            for index, (one, other) in enumerate(zip(left, right, strict=True))
            for found in differences(one, other, f"{at}[{index}]")
        ]
    return [] if left == right else [f"{at}: {left!r} and {right!r}"]


def main():
    arm, bicep = Arm(DEPLOY / "session-pool.json"), Bicep(DEPLOY / "session-pool.bicep")
    parameters = arm.parameters()
    told = {}

    defaults = {
        name: f"a {name}" if found["default"] in (None, "") else found["default"]
        for name, found in parameters.items()
    }
    # Each parameter with a value that is nobody else's shows where it ends up.
    others = {
        name: found["allowed"][-1]
        if found["allowed"]
        else {"int": 1000 + index, "string": f"another {name}"}[found["type"]]
        for index, (name, found) in enumerate(parameters.items())
    } | {"cpu": "0.75"}
    nobody = defaults | {"callerId": ""}

    told["Bicep and ARM template: parameters"] = differences(bicep.parameters(), parameters)
    for title, values in {"defaults": defaults, "others": others, "nobody": nobody}.items():
        told[f"Bicep and ARM template: {title}"] = differences(
            bicep.filled(values), arm.filled(values)
        )

    api_version = ContainerAppsAPIClientConfiguration("no credential", "none").api_version
    resources = arm.filled(defaults)["resources"]
    pools = [name for name in resources if name.startswith(f"{POOL}@")]
    told["api-version of the SDK"] = (
        [] if pools == [f"{POOL}@{api_version}"] else [f"{pools} and {api_version}"]
    )
    pool = resources[pools[0]]
    body = {key: value for key, value in pool.items() if key != "name"}
    told["ARM template and the SDK's models"] = check_against_model(
        body, models.SessionPool, "pool"
    )
    container = pool["properties"]["customContainerTemplate"]["containers"][0]
    told["bounds of the probes"] = check_probes(container["probes"])

    create, *rest = calls_of_the_script(defaults)
    expected = json.loads(json.dumps(pool))
    del expected["location"]  # the CLI takes the group's
    del expected["properties"]["managedIdentitySettings"]  # None is the default
    expected["name"] = "sessionadapter"
    told["create-pool.sh and ARM template"] = differences(pool_of_call(create), expected)
    assigned = [c for c in rest if c[:3] == ["role", "assignment", "create"]]
    told["create-pool.sh gives the caller its role"] = (
        []
        if len(assigned) == 1
        and "Azure ContainerApps Session Executor" in assigned[0]
        and defaults["callerId"] in assigned[0]
        and "answer to id" in assigned[0]
        else [str(assigned)]
    )

    for title, problems in told.items():
        print("FAILED" if problems else "ok    ", title)
        for problem in problems:
            print("       ", problem)
    sys.exit(any(told.values()))


main()
