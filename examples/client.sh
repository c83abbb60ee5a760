#!/bin/sh
# Runs the Python program on standard input in a session, and prints the answer.
#
#   echo 'print(6*7)' | SESSION_POOL=https://… ./client.sh demo-1
#
# SESSION_POOL is the pool's endpoint; without it, an adapter on this machine is asked, which takes
# no token. Needs curl and jq, and for a pool the Azure CLI.
set -eu
: "${1:?the name of a session, such as demo-1, is missing}"
pool=${SESSION_POOL:-http://localhost:2000}

case $pool in
  https:*)
    token=$(az account get-access-token --resource https://dynamicsessions.io \
      --query accessToken --output tsv)
    ;;
  *) token= ;;
esac

identifier=$(jq --null-input --raw-output --arg name "$1" '$name | @uri')
# The token goes to curl by a file descriptor: command lines can be read by others.
jq --raw-input --slurp '{properties: {codeInputType: "Inline", executionType: "Synchronous", code: .}}' |
  curl --silent --show-error --fail-with-body --max-time 240 "$pool/python/execute?identifier=$identifier" \
    --header 'Content-Type: application/json' --data-binary @- --config /dev/fd/3 3<<CONFIG
${token:+header = "Authorization: Bearer $token"}
CONFIG
