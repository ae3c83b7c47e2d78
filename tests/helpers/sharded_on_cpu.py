"""The run script with FSDP or DeepSpeed on CPUs, as `accelerate launch` starts it on GPUs.

torch and DeepSpeed can shard on CPUs. accelerate can not: it takes plain data parallelism there,
without a warning. Its state is changed here so that it shards; nothing else is replaced.
"""

import os

import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState

initialise = AcceleratorState.__init__


def with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    """Make an AcceleratorState that has FSDP where a plugin for it is given."""
    initialise(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)


AcceleratorState.__init__ = with_fsdp
if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
    torch.accelerator.is_available = lambda: True  # otherwise the run sets use_cpu

if __name__ == "__main__":
    from seq2seq_dialog.errors import run
    from seq2seq_dialog.train import main

    run(main)
