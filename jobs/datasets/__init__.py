"""Multiple-choice data from files and from the Hugging Face hub.

Reading is done once for all data sets; what a record means is said in ``steering_core.datasets``.
"""
