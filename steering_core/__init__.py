"""Activation steering of decoder language models, exactly and fast, without Ray.

Read in this order: ``stereoset`` (data), ``protocol`` (what is computed), ``encoding`` (tokens),
``layout`` and ``hook_points`` (where in a model), ``hooks`` (capture and add), ``packing`` and
``engine`` (the fast path), ``reference`` (the slow, obvious path), ``vectors``, ``metrics``.

For answers that are written: ``steerer`` (around any code that calls a model), ``chat`` (prompts),
``sampling``, ``generation`` (many configurations at once), ``reference_generation`` (slowly),
``response_states`` and ``projections``.
"""
