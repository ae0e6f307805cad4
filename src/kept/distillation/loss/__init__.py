"""Distillation losses: divergences with closed-form gradients, evaluated over an output head, and hidden-state losses.

| module | contents |
| --- | --- |
| `divergences` | forward KL, reverse KL, JSD and top-k KL of each token, with their gradients |
| `objective` | the weighted sum of divergences and cross-entropy, with its gradient |
| `output_head` | an output head applied to chunks of tokens |
| `chunked_loss` | the objective of a batch, without the logits of a whole batch |
| `hidden_states` | errors of hidden states |
| `top_k` | a teacher's distribution as its top-k tokens |
| `top_k_bias` | the error that top-k makes in the forward KL |
| `chunk_size` | the number of logits held at a time |
"""
