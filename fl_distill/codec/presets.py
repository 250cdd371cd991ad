"""Codecs that have names; each is a sentence that `chain` reads, and that you can write yourself with other numbers."""

PRESETS = {
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "delta uniform8x64",
    "int4": "delta residual uniform4x64",
    "nf4": "delta residual nf4x64",
    "step": "delta step0.5 zstd1",
    "eden1": "delta rotate lloydmax1",
    "eden2": "delta rotate lloydmax2",
    "eden3": "delta rotate lloydmax3",
    "eden4": "delta rotate lloydmax4",
    "sign": "delta residual sign",
    "topk": "delta residual top0.01 float16",
    "powersgd": "delta residual lowrank2 float16",
    "mixed": "delta residual keep uniform4x64",
    "ring": "delta ring8x16",
}

STEPS = {
    "rotate": "rotate",
    "top": "top0.01",
    "lowrank": "lowrank2",
    "float": "float16",
    "bfloat": "bfloat16",
    "uniform": "uniform8x64",
    "stochastic": "stochastic8x64",
    "dither": "dither8x64",
    "nf": "nf4x64",
    "lloydmax": "lloydmax2",
    "leastmax": "leastmax2",
    "step": "step0.5",
    "sign": "sign",
    "ring": "ring8x16",
    "classes": "classes3",
    "zstd": "zstd1",
}
"""How each step's word is written, for example; in the order of the table in `docs/codecs.md`."""
