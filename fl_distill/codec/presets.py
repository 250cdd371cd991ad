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
