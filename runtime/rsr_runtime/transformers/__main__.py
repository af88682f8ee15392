"""The command line of transformers, which can load what `rsrc export-transformers` wrote.

python -m rsr_runtime.transformers serve DIRECTORY
"""

from transformers.cli.transformers import main

main()
