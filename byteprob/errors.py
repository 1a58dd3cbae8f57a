"""Host: the errors that users see; each says what to do."""


class ByteprobError(ValueError):
  """Error that users can fix; the message says what is wrong and what to do."""


class UnsupportedTokenizerError(ByteprobError):
  """A tokenizer has a component that cannot be compiled exactly."""


class PromptError(ByteprobError):
  """A text or context that the model's byte-level law cannot express."""


class CheckpointError(ByteprobError):
  """Weights, tokenizer or config files that are broken or do not fit."""


class DownloadError(ByteprobError):
  """A model could not be fetched."""


class ConstraintError(ByteprobError):
  """A pattern that no byte automaton can be made of."""


class MeshError(ByteprobError):
  """A mesh that the devices or the model do not allow."""
