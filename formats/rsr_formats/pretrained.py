"""Names in a model directory that transformers loads with `rsr_runtime.transformers`.

transformers only warns about a quantization method that it does not know, and makes up the weights
that it then finds missing. Therefore config.json names a file of weights that is in no directory,
and loading fails with that name in the message. `rsr_runtime.transformers` ignores it.
"""

QUANT_METHOD = "rsr"  # in quantization_config of config.json
RSR_FILE = "model.rsr"  # holds the linear layers
DENSE_FILE = "model.safetensors"  # holds the other tensors

WEIGHTS_KEY = "transformers_weights"  # of config.json: names the file of weights
IMPORT_FIRST = "to load model.rsr, import rsr_runtime.transformers first.safetensors"
