"""The files that travel with a model to the Hub: they need torch, transformers and each other.

Importing this package registers the recurrent models with the Auto classes.
"""

from transformers import AutoConfig, AutoModelForSeq2SeqLM

from .configuration_rnn import RnnSeq2SeqConfig
from .modeling_rnn import RnnSeq2SeqForConditionalGeneration

AutoConfig.register(RnnSeq2SeqConfig.model_type, RnnSeq2SeqConfig)
AutoModelForSeq2SeqLM.register(RnnSeq2SeqConfig, RnnSeq2SeqForConditionalGeneration)
