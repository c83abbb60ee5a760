#!/bin/sh
# Makes what session-pool.bicep makes, with the Azure CLI and its extension containerapp: a session
# pool that runs the session-adapter image, and the right to use it for one caller.
#
#   RESOURCE_GROUP=… ENVIRONMENT=… REGISTRY=myregistry.azurecr.io \
#   IMAGE=myregistry.azurecr.io/session-adapter:1 IDENTITY_ID=… [CALLER_ID=…] [POOL=…] create-pool.sh
#
# Prints the pool's address.
set -eu

: "${RESOURCE_GROUP:?is not set}"
: "${ENVIRONMENT:?is not set: name or resource id of the Container Apps environment}"
: "${REGISTRY:?is not set: the server, such as myregistry.azurecr.io}"
: "${IMAGE:?is not set: the image with its tag}"
: "${IDENTITY_ID:?is not set: resource id of the identity that pulls the image}"
CALLER_ID=${CALLER_ID:-}
CALLER_TYPE=${CALLER_TYPE:-ServicePrincipal}
POOL=${POOL:-sessionadapter}

# An identity that is named here only pulls the image: sessions cannot use it.
az containerapp sessionpool create \
  --name "$POOL" \
  --resource-group "$RESOURCE_GROUP" \
  --environment "$ENVIRONMENT" \
  --container-type CustomContainer \
  --container-name session-adapter \
  --image "$IMAGE" \
  --registry-server "$REGISTRY" \
  --registry-identity "$IDENTITY_ID" \
  --cpu 0.5 \
  --memory 1Gi \
  --target-port 2000 \
  --env-vars ADAPTER_LISTEN=0.0.0.0 "ALLOW_HOST=*" MAX_JOBS=2 JOB_MEMORY_BYTES=384MiB \
  --probe-yaml "$(dirname "$0")/probes.yaml" \
  --lifecycle-type Timed \
  --cooldown-period 300 \
  --max-sessions 20 \
  --ready-sessions 2 \
  --network-status EgressDisabled \
  --output none

if [ -n "$CALLER_ID" ]; then
  scope=$(az containerapp sessionpool show --name "$POOL" --resource-group "$RESOURCE_GROUP" \
    --query id --output tsv)
  az role assignment create --role 'Azure ContainerApps Session Executor' \
    --assignee-object-id "$CALLER_ID" --assignee-principal-type "$CALLER_TYPE" \
    --scope "$scope" --output none
fi

az containerapp sessionpool show --name "$POOL" --resource-group "$RESOURCE_GROUP" \
  --query properties.poolManagementEndpoint --output tsv
