"""What a run will cost, before it is run: work, rates, estimate, budget, and afterwards what it did cost.

work       one image's network, decoder and scorer arithmetic, from the model's configuration alone
rates      how fast that goes: this store's history, a probe, or a shipped table of GPUs (assumed)
estimate   plan x rates -> images, accepted images, GPU-hours, money, by level, with and without each lever
budget     levels x seeds that fit, by stated priorities, and what was cut
actual     the store's runs, beside the plan
"""
