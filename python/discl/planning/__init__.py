"""What a run will cost, before it is run: work, rates, estimate, budget, and afterwards what it did cost.

work       one image's network, decoder and scorer arithmetic, from the model's configuration alone
rates      how fast that goes, assumed from a shipped table of GPUs
rows       the same from recorded benchmark rows
history    the same from this store's runs, or a probe
estimate   plan x rates -> images, accepted images, GPU-hours, money, by level, with and without each lever
budget     levels x seeds that fit, by stated priorities, and what was cut
"""
