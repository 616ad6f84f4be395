"""What other libraries say while a command runs."""

import logging
import warnings


def quiet(verbose: bool) -> None:
    """The model libraries' own progress bars and notices stay out of a run's output."""
    if verbose:
        return
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found"
    import diffusers
    import transformers

    warnings.simplefilter("ignore", FutureWarning)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
