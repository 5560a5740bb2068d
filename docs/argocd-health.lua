-- Health of a LoRATraining for Argo CD. Put it into the ConfigMap argocd-cm under the key
--   resource.customizations.health.loratraining.dev_LoRATraining
-- A training at work is Progressing, so that a sync that waits for health waits for the LoRA.

local health = { status = "Progressing", message = "The operator has not looked at it yet." }

if obj.status == nil or obj.status.conditions == nil then
  return health
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  health.message = "The operator has not looked at the latest change yet."
  return health
end

health.message = obj.status.message or ""
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Succeeded" and condition.status == "True" then
    health.status = "Healthy"
    return health
  end
  if condition.type == "Succeeded" and condition.status == "False" then
    health.status = "Degraded"
    if condition.reason == "Cancelled" then
      health.status = "Suspended"
    end
    return health
  end
  if condition.type == "Suspended" and condition.status == "True" and condition.reason == "Suspended" then
    health.status = "Suspended"
  end
end
return health
