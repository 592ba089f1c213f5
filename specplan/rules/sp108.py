"""SP108: more devices than there are."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """Devices that share the model against devices that the container gets."""
    serving = subject.serving
    if serving.num_gpus is None:
        return
    tensor = serving.tensor_parallel.value if serving.tensor_parallel is not None else 1
    pipeline = serving.pipeline_parallel.value if serving.pipeline_parallel is not None else 1
    wanted, have = tensor * pipeline, serving.num_gpus.value
    if wanted <= have:
        return
    yield Finding(
        "SP108",
        "error",
        subject.location_of(serving.tensor_parallel, serving.pipeline_parallel),
        f"the model is shared over {wanted} devices, the container gets {have} ({serving.num_gpus.origin})",
        f"ask for {wanted} devices",
        {"num_devices": wanted, "num_gpus": have},
        ({"num_gpus": wanted},),
    )


_MANIFEST = """\
apiVersion: v1
kind: Pod
metadata: {{name: llm}}
spec:
  nodeSelector: {{nvidia.com/gpu.product: NVIDIA-L4}}
  containers:
    - name: vllm
      image: vllm/vllm-openai:v0.33.0
      args: [--model, Qwen/Qwen2.5-7B-Instruct, --max-model-len, "4096", --tensor-parallel-size, "2"]
      resources:
        limits: {{nvidia.com/gpu: {gpus}}}
"""

RULE = Rule(
    "SP108",
    "More devices than the container gets",
    "error",
    "The engine waits for devices that the scheduler did not give it, or ends at once.",
    Example("pod.yaml", _MANIFEST.format(gpus=1), None),
    Example("pod.yaml", _MANIFEST.format(gpus=2), None),
    "Ask for as many devices as the model is shared over.",
    check,
)
