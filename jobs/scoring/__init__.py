"""What jobs that score candidates share: plan, steps, replicas, vectors, certificates, forecast."""
