"""The StereoSet replication: spec, plan, what a replica computes, and the fit between phases."""
