// A session pool that runs the session-adapter image, and the right to use it for one caller.
// session-pool.json says the same as an ARM template.

@description('Name of the pool, and the first part of its address.')
@minLength(3)
@maxLength(63)
param name string = 'sessionadapter'

@description('Region; one that has session pools.')
param location string = resourceGroup().location

@description('Resource id of a Container Apps environment with workload profiles.')
param environmentId string

@description('Registry that holds the image, such as myregistry.azurecr.io.')
param registryServer string

@description('The image, with a tag of its own for each build: pools keep what they once pulled.')
param image string

@description('Resource id of a user-assigned identity that may pull from the registry (AcrPull).')
param identityId string

@description('Object id of who may run code in the pool. Empty: nobody is given the right here.')
param callerId string = ''

@allowed([
  'ServicePrincipal'
  'User'
  'Group'
])
@description('What the caller is. A managed identity is a ServicePrincipal.')
param callerType string = 'ServicePrincipal'

@description('Cores of one session.')
param cpu string = '0.5'

@description('Memory of one session: maxJobs times jobMemory, and 256 MiB for everything else.')
param memory string = '1Gi'

@description('Executions at a time in one session.')
@minValue(1)
param maxJobs int = 2

@description('Memory of one execution.')
param jobMemory string = '384MiB'

@description('Most sessions at a time. What asks for one more gets 404 from the pool.')
@minValue(1)
param maxConcurrentSessions int = 20

@description('Sessions that are kept started for those who come next.')
@minValue(0)
param readySessionInstances int = 2

@description('Seconds without a request after which a session is deleted with its files.')
@minValue(300)
@maxValue(3600)
param cooldownPeriodInSeconds int = 300

@allowed([
  'EgressDisabled'
  'EgressEnabled'
])
@description('Whether the container may reach other machines.')
param networkStatus string = 'EgressDisabled'

// Azure ContainerApps Session Executor, a built-in role.
var sessionExecutor = '0fb8eba5-a2bb-4abe-b1c1-49dfad359bb0'

resource pool 'Microsoft.App/sessionPools@2025-02-02-preview' = {
  name: name
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    environmentId: environmentId
    containerType: 'CustomContainer'
    poolManagementType: 'Dynamic'
    scaleConfiguration: {
      maxConcurrentSessions: maxConcurrentSessions
      readySessionInstances: readySessionInstances
    }
    dynamicPoolConfiguration: {
      lifecycleConfiguration: {
        lifecycleType: 'Timed'
        cooldownPeriodInSeconds: cooldownPeriodInSeconds
      }
    }
    sessionNetworkConfiguration: {
      status: networkStatus
    }
    // The identity pulls the image. No code in a session can use it.
    managedIdentitySettings: [
      {
        identity: identityId
        lifecycle: 'None'
      }
    ]
    customContainerTemplate: {
      registryCredentials: {
        server: registryServer
        identity: identityId
      }
      ingress: {
        targetPort: 2000
      }
      containers: [
        {
          name: 'session-adapter'
          image: image
          resources: {
            cpu: json(cpu)
            memory: memory
          }
          env: [
            {
              name: 'ADAPTER_LISTEN'
              value: '0.0.0.0'
            }
            {
              name: 'ALLOW_HOST'
              value: '*'
            }
            {
              name: 'MAX_JOBS'
              value: string(maxJobs)
            }
            {
              name: 'JOB_MEMORY_BYTES'
              value: jobMemory
            }
          ]
          probes: [
            {
              type: 'Startup'
              httpGet: {
                path: '/health/startup'
                port: 2000
              }
              periodSeconds: 2
              timeoutSeconds: 2
              failureThreshold: 10
            }
            {
              type: 'Liveness'
              httpGet: {
                path: '/health'
                port: 2000
              }
              periodSeconds: 10
              timeoutSeconds: 5
              failureThreshold: 3
            }
          ]
        }
      ]
    }
  }
}

resource callerMayExecute 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(callerId)) {
  name: guid(pool.id, callerId, sessionExecutor)
  scope: pool
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', sessionExecutor)
    principalId: callerId
    principalType: callerType
  }
}

@description('Where the pool takes requests.')
output endpoint string = pool.properties.poolManagementEndpoint
