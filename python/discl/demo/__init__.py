"""The demo: a tiny generator, a tiny CLIP, and the long-tailed digits they are used on."""
