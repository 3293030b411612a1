"""The laws of architectures by what they are about: how a model is built, passes, training, and its stored state."""
