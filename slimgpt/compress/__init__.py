"""The release pipeline: plan, prune, recover, evaluate, gate, release and push as one job."""
