"""Activation steering of decoder language models, exactly and fast, without Ray.

Read in this order: ``stereoset`` (data), ``protocol`` (what is computed), ``encoding`` (tokens),
``layout`` and ``hook_points`` (where in a model), ``hooks`` (capture and add), ``packing`` and
``engine`` (the fast path), ``reference`` (the slow, obvious path), ``vectors``, ``metrics``.
"""
