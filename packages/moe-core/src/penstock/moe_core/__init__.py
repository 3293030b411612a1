"""GLM-4.x mixture-of-experts language models, small enough to read and exact enough to load the real weights.

`model.GlmMoe` is the model, `config.GlmMoeConfig` its hyper-parameters and presets.
"""
