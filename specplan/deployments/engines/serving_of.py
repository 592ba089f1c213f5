"""Which reading of settings belongs to an engine."""

from __future__ import annotations

import dataclasses

from specplan.deployments.deployment import Deployment
from specplan.deployments.engines.llama_cpp import llama_cpp_serving
from specplan.deployments.engines.sglang import sglang_serving
from specplan.deployments.engines.specplan_toml import specplan_serving
from specplan.deployments.engines.tensorrt_llm import tensorrt_llm_serving
from specplan.deployments.engines.transformers import transformers_serving
from specplan.deployments.engines.vllm import vllm_serving
from specplan.deployments.serving import Serving, given

_READERS = {
    "vllm": vllm_serving,
    "sglang": sglang_serving,
    "llama.cpp": llama_cpp_serving,
    "tensorrt-llm": tensorrt_llm_serving,
    "transformers": transformers_serving,
    "specplan": specplan_serving,
}


def serving_of(deployment: Deployment) -> Serving:
    """What the engine is asked to serve.

    Raises:
        CannotTell: a value that depends on a variable, or is none.
    """
    serving = _READERS[deployment.engine](deployment)
    gpu, count = deployment.gpu, deployment.num_gpus
    return dataclasses.replace(
        serving,
        gpu=serving.gpu if gpu is None else given(gpu, str),
        num_gpus=None if count is None else given(count, int),
    )
