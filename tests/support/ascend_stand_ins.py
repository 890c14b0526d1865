"""Stand-ins for operators that only an NPU has: they compute on the CPU what the operator's documentation says."""

import inspect

from mindspore.ops import auto_generate


def stand_in(name, compute):
    """A class with the signatures of the operator's constructor and call, which returns compute(options, arguments)."""
    real = getattr(auto_generate, name)

    class StandIn:
        def __init__(self, *args, **kwargs):
            bound = inspect.signature(real.__init__).bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.options = bound.arguments

        def __call__(self, *args):
            bound = inspect.signature(real.__call__).bind(self, *args)
            bound.apply_defaults()
            return compute(self.options, bound.arguments)

    return StandIn
