"""The class with which transformers runs any spec. Outputs of the family `kept` carry its code.

`modeling_kept`, `configuration_kept` and `cache_kept` are a thin layer around `kept.nn`. `carried_code` writes them,
and the modules that they import, as files of an output. `register` makes them known to transformers on `import kept`.
"""
