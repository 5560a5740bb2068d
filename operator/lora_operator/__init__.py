"""The operator: turns LoRATrainings into Jobs and mirrors back what becomes of them.

A package of its own so that it shares nothing with the trainer but the documents in lora_api.
"""
